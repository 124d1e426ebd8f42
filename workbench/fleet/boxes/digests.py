"""Digests of files, remembered while a file's size, time and inode stay as they are."""

from __future__ import annotations

import threading
from pathlib import Path

from workbench.machine.staging import file_sha256

_Key = tuple[str, int, int, int]
KEPT = 20_000
"""Most digests that are remembered; those read longest ago are forgotten first."""


class DigestCache:
    """SHA-256 of files; each is read once (about 1 GB/s) until it changes. Safe between threads:
    those that ask for a file while it is read wait for its digest.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._known: dict[_Key, str] = {}
        self._reading: dict[_Key, threading.Lock] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the digest in hexadecimal. Raises OSError."""
        key = _key(path)
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        try:
            with reading:
                digest = self._known.get(key) or file_sha256(path)
                self._remember(key, digest)
        finally:
            with self._lock:
                self._reading.pop(key, None)
        return digest

    def _remember(self, key: _Key, digest: str) -> None:
        with self._lock:
            self._known[key] = digest
            while len(self._known) > self._kept:
                del self._known[next(iter(self._known))]

    def knows(self, path: Path) -> bool:
        """Return whether the file need not be read. Raises OSError."""
        return _key(path) in self._known


def _key(path: Path) -> _Key:
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
