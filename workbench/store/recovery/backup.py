"""Daily copies of the database in the home's `backups/`, named by a number and a day.

A copy is whole or absent, and the newest three are kept. `repair` takes from a backup what the
journal and the folders do not hold.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workbench.machine.files import free_bytes, sync_path
from workbench.store.recovery.damage import to_store_error
from workbench.text import safe_line

KEEP = 3
"""Backups that are kept."""
EVERY_S = 86_400.0
"""Seconds from one backup to the next."""
SPARE_BYTES = 1 << 30
"""Bytes left free beside a backup: checkpoints matter more than a second copy of the rows."""
_NAME = re.compile(r"(\d{6,})-(\d{4}-\d\d-\d\d)\.db\Z")


def list_backups(folder: Path) -> list[Path]:
    """Return the backups, newest first: by number, because the clock may jump."""
    found = folder.iterdir() if folder.is_dir() else ()
    named = ((match, path) for path in found if (match := _NAME.match(path.name)))
    return [path for _, path in sorted(named, key=lambda one: int(one[0][1]), reverse=True)]


def back_up(database: Path, folder: Path, keep: int = KEEP) -> Path:
    """Copy the database as it is at one moment, delete all but `keep` copies, return the new one.

    Uses a connection of its own, so that the writer goes on meanwhile. Takes as long as writing
    the file does: seconds for ten million metric rows. Raises sqlite3.Error or OSError.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.glob(".*.partial*"):  # left by a process that was killed
        left.unlink()
    known = list_backups(folder)
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
        sync_path(partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    sync_path(folder)
    for old in list_backups(folder)[keep:]:
        old.unlink(missing_ok=True)
    return target


class Daily:
    """A daily backup on a thread of its own; `look` only starts it when it is due."""

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
        self._problem = ""

    def _due_in_s(self) -> float:
        """Return the seconds until the newest is a day old; one from the future does not count."""
        newest = list_backups(self._folder)[:1]
        age_s = self._wall() - newest[0].stat().st_mtime if newest else EVERY_S
        return min(EVERY_S, max(0.0, EVERY_S - age_s)) if age_s >= 0 else 0.0

    def look(self) -> str:
        """Start a backup when it is due; return once what went wrong with the last, else empty."""
        problem, self._problem = self._problem, ""
        if self._monotonic() >= self._next_s and not self.busy:
            self._next_s = self._monotonic() + EVERY_S
            self._thread = threading.Thread(target=self._run, name="backup", daemon=True)
            self._thread.start()
        return problem

    @property
    def busy(self) -> bool:
        """True while a backup is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, timeout_s: float) -> None:
        """Wait for the backup in progress, if any, but not longer than `timeout_s` seconds."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            if free_bytes(self._folder.parent) < self._database.stat().st_size + SPARE_BYTES:
                self._problem = "no backup today: the disk has too little free for one"
                return
            back_up(self._database, self._folder)
        except sqlite3.Error as refused:
            self._problem = f"no backup today: {to_store_error(refused, self._database).what}"
        except OSError as refused:
            self._problem = f"no backup today: {safe_line(refused.strerror or refused)}"
