"""Digests of files, remembered while a file's size, time and inode stay as they are."""

from __future__ import annotations

import threading
from pathlib import Path

from workbench.machine.staging import file_sha256

_Key = tuple[str, int, int, int]


class DigestCache:
    """SHA-256 of files; each is read once (about 1 GB/s) until it changes. Safe between threads."""

    def __init__(self) -> None:
        self._known: dict[_Key, str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """Return the digest in hexadecimal. Raises OSError."""
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found = file_sha256(path)
            with self._lock:
                self._known[key] = found
        return found
