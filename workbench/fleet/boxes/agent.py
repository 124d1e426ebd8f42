"""The agent of a box: it shows the box's cards and disk, takes files in and gives files out.

It runs on the box, in a Ray actor; every path that it is given is relative to the work folder, and
none leads out of it. Files arrive in chunks under their digest, so that a transfer that was cut
goes on where it stopped, and a base that is here already is not sent again.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.cluster.ray_commands import answers
from workbench.cluster.settings import work_folder
from workbench.cluster.versions import installed_versions
from workbench.fleet.boxes.digests import DigestCache
from workbench.fleet.boxes.file_cache import FileCache
from workbench.fleet.trial_fence import LIVE, LOCK, allow_attempt, call_off
from workbench.home import Home, find_home
from workbench.machine.files import free_bytes
from workbench.machine.locks import lock_holder
from workbench.machine.processes import belongs_to_unit
from workbench.machine.sampler import load_reading
from workbench.user_config import ConfigWatch

EVENTS_BYTES = 4 << 20
"""Most bytes of an event file in one answer: more than any line has."""
FENCE_FILES = frozenset({LIVE, LOCK})
"""Files of a trial that each machine has for itself."""
ATTEMPT_FILES = frozenset({"events.jsonl", "assignment.json"})
"""Files of an attempt that do not travel as they are."""


class BoxAgent:
    """The files and cards of one box, as its head sees them."""

    def __init__(self, home: Home | None = None) -> None:
        self._home = home or find_home()
        self._work = work_folder(self._home)
        self._config = ConfigWatch()
        self._cache = FileCache(self._work, self._floor_bytes)
        self._digests = DigestCache()

    def hello(self) -> dict[str, Any]:
        """Return what the head needs to know once: versions, work folder, process."""
        return {
            "versions": installed_versions(),
            "work": str(self._work),
            "home": str(self._home.root),
            "pid": os.getpid(),
            "token_mode": stat.S_IMODE(self._home.token.stat().st_mode),
        }

    def closed_ports(self, host: str, ports: list[int]) -> list[int]:
        """Return the ports of another machine that do not answer; a second for each, at most."""
        return [port for port in ports if not answers(host, port)]

    def look(self) -> dict[str, Any]:
        """Return the newest reading of the cards, without our own processes, the disk, and the
        bases that are here. Where the disk is below its floor, cached files go first.
        """
        newest = load_reading(self._home.sample, time.time())
        reading = newest.to_json()
        for card in reading["cards"]:
            card["processes"] = [p for p in card["processes"] if not belongs_to_unit(p["pid"])]
        with suppress(OSError):  # the head shows that the disk is low
            self._cache.make_room()
        return {
            "reading": reading,
            "stalled": newest.stalled,
            "free_bytes": free_bytes(self._work),
            "floor_bytes": self._floor_bytes(),
            "bases": self._cache.bases(),
            "clock_utc": time.time(),
        }

    # --- files that arrive

    def missing(self, files: list[tuple[str, int]]) -> dict[str, int]:
        """Return the digests of which not all bytes are here, each with the bytes that are."""
        return self._cache.missing(files)

    def take_from_hub(self, digest: str, size: int) -> bool:
        """Take a file from this user's cache of the hub; return whether it is there."""
        return self._cache.take_from_hub(digest, size)

    def put(self, digest: str, offset: int, chunk: bytes, size: int) -> int:
        """Append a chunk of a file; return how many of its `size` bytes are here now."""
        return self._cache.put(digest, offset, chunk, size)

    def lay(
        self, files: list[tuple[str, str]], trial: str, attempt: str, labels: dict[str, str]
    ) -> None:
        """Lay files of the cache at their paths, and make `attempt` the live one of its trial.

        The trial's folder is emptied first: what an earlier attempt left here may be older than
        what the head has. `labels` has the label of each folder that is a base.
        """
        with suppress(FileNotFoundError):
            call_off(self._path(trial))
            for entry in self._path(trial).iterdir():
                if entry.name not in FENCE_FILES:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        laid = [(self._path(path), digest) for path, digest in files]
        self._cache.lay(laid, self._path(attempt), labels)
        self._path(trial).mkdir(mode=0o700, parents=True, exist_ok=True)
        allow_attempt(self._path(trial), int(attempt.rpartition("/")[2]))

    # --- files that leave

    def events(self, attempt: str, offset: int) -> bytes:
        """Return whole lines of the event file from byte `offset` on, EVENTS_BYTES at most."""
        chunk = b""
        events = self._path(f"{attempt}/events.jsonl")
        with suppress(FileNotFoundError), events.open("rb") as file:
            file.seek(offset)
            chunk = file.read(EVENTS_BYTES)
        return chunk[: chunk.rfind(b"\n") + 1]

    def files(self, attempt: str, trial: str) -> list[tuple[str, int, int]]:
        """Return (path, bytes, modification time in ns) of the attempt's files that travel."""
        return [
            *self._listed(self._path(trial)),
            *self._listed(self._path(attempt), ATTEMPT_FILES),
            *self._listed(self._work / "evaluations"),
        ]

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file. Raises OSError where it has gone."""
        return self._digests.sha256(self._path(path))

    def read(self, path: str, offset: int, count: int) -> bytes:
        """Return bytes of a file. Raises OSError where it has gone."""
        with self._path(path).open("rb") as file:
            file.seek(offset)
            return file.read(count)

    def drop(self, attempt: str, trial: str) -> bool:
        """Call an attempt off and remove its files; False while its worker is still at them.

        Another attempt of the trial, which has come since, keeps the trial's folder.
        """
        folder = self._path(trial)
        with suppress(OSError):
            live = (folder / LIVE).read_text().strip().lstrip("0")
            if live in ("", attempt.rpartition("/")[2]):
                call_off(folder)
                if lock_holder(folder / LOCK) is not None:
                    return False
                shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self._path(attempt), ignore_errors=True)
        return True

    # --- inside

    def _floor_bytes(self) -> int:
        """Return `guards.disk_floor` of this box's own configuration."""
        return self._config().guards.disk_floor

    def _path(self, relative: str) -> Path:
        path = self._work / relative
        if ".." in path.parts or not path.is_relative_to(self._work):
            raise ValueError("a path leads out of the work folder")
        return path

    def _listed(
        self, folder: Path, without: frozenset[str] = FENCE_FILES
    ) -> list[tuple[str, int, int]]:
        found = []
        for path in listed_files(folder, without):
            with suppress(OSError):  # removed meanwhile
                stat = path.stat()
                name = path.relative_to(self._work).as_posix()
                found.append((name, stat.st_size, stat.st_mtime_ns))
        return found


def listed_files(folder: Path, without: frozenset[str] = FENCE_FILES) -> list[Path]:
    """Return the files below a folder that travel: none that is hidden, as what is being written
    is, no checkpoint that was set aside as damaged, and no name of `without`.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part[0] == "." or part == "damaged" for part in parts)
        if not hidden and path.name not in without and path.is_file():
            found.append(path)
    return found
