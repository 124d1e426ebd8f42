"""Copies of the database, whole or absent, in the home's `backups/`: a number and a day each.

The newest three stay. A backup gives `repair` what the journal and the folders do not hold.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workbench.machine.files import free_bytes, sync
from workbench.store.damage import in_words
from workbench.text import safe_line

KEEP = 3
EVERY_S = 86_400.0
SPARE_BYTES = 1 << 30
"""Left free beside a backup: checkpoints matter more than a second copy of the rows."""
_NAME = re.compile(r"(\d{6,})-(\d{4}-\d\d-\d\d)\.db\Z")


def backups(folder: Path) -> list[Path]:
    """Newest first: by number, the clock may jump."""
    found = folder.iterdir() if folder.is_dir() else ()
    named = ((match, path) for path in found if (match := _NAME.match(path.name)))
    return [path for _, path in sorted(named, key=lambda one: int(one[0][1]), reverse=True)]


def back_up(database: Path, folder: Path, keep: int = KEEP) -> Path:
    """One more copy, of one moment, by a reader of its own; the oldest go. sqlite3.Error, OSError.

    Takes as long as writing the file does (seconds for ten million metric rows).
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.glob(".*.partial*"):  # of one that was killed
        left.unlink()
    known = backups(folder)
    number = int(_NAME.match(known[0].name)[1]) + 1 if known else 1  # type: ignore[index]
    target = folder / f"{number:06d}-{time.strftime('%Y-%m-%d')}.db"
    partial = folder / f".{target.name}.partial"
    os.close(os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            connection.execute("vacuum into ?", (str(partial),))
        finally:
            connection.close()
        sync(partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    sync(folder)
    for old in backups(folder)[keep:]:
        old.unlink(missing_ok=True)
    return target


class Daily:
    """Backs up once a day, on a thread of its own: a tick only asks whether it is time."""

    def __init__(
        self,
        database: Path,
        folder: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._folder = database, folder
        self._wall, self._monotonic = wall, monotonic
        self._next_s = monotonic() + self._due_in_s()
        self._thread: threading.Thread | None = None
        self._told = ""

    def _due_in_s(self) -> float:
        """Until the newest is a day old; one from the future tells nothing."""
        newest = backups(self._folder)[:1]
        age_s = self._wall() - newest[0].stat().st_mtime if newest else EVERY_S
        return min(EVERY_S, max(0.0, EVERY_S - age_s)) if age_s >= 0 else 0.0

    def look(self) -> str:
        """Start one when it is due. What went wrong with the last, once; else empty."""
        told, self._told = self._told, ""
        if self._monotonic() >= self._next_s and not self.busy:
            self._next_s = self._monotonic() + EVERY_S
            self._thread = threading.Thread(target=self._run, name="backup", daemon=True)
            self._thread.start()
        return told

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            if free_bytes(self._folder.parent) < self._database.stat().st_size + SPARE_BYTES:
                self._told = "no backup today: the disk has too little free for one"
                return
            back_up(self._database, self._folder)
        except sqlite3.Error as refused:
            self._told = f"no backup today: {in_words(refused, self._database).what}"
        except OSError as refused:
            self._told = f"no backup today: {safe_line(refused.strerror or refused)}"
