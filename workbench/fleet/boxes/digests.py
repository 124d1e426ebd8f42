"""Digests of files, remembered while a file's size, time and inode stay as they are."""

from __future__ import annotations

import threading
from pathlib import Path

from workbench.machine.staging import file_sha256

_Key = tuple[str, int, int, int]


class DigestCache:
    """SHA-256 of files; each is read once (about 1 GB/s) until it changes. Safe between threads:
    those that ask for a file while it is read wait for its digest.
    """

    def __init__(self) -> None:
        self._known: dict[_Key, str] = {}
        self._reading: dict[_Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the digest in hexadecimal. Raises OSError."""
        key = _key(path)
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:
            if key not in self._known:
                self._known[key] = file_sha256(path)
        with self._lock:
            self._reading.pop(key, None)
        return self._known[key]

    def knows(self, path: Path) -> bool:
        """Return whether the file need not be read. Raises OSError."""
        return _key(path) in self._known


def _key(path: Path) -> _Key:
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
