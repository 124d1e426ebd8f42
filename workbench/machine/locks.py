"""File locks that end with the process that holds them, however it ends (flock)."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

GLANCE_S = 0.1
"""Seconds for which Lock.take retries, because lock_holder takes each lock for microseconds in
order to look at it.
"""


class Lock:
    """An exclusive flock on a file; the file's text is the pid of the holder, for people."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """Return True once this process holds the lock; False while another process holds it."""
        if self._handle is not None:
            return True
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + GLANCE_S
        while not _flock(handle, fcntl.LOCK_EX):
            if time.monotonic() > until:
                os.close(handle)
                return False
            time.sleep(0.005)
        self._handle = handle
        self.sign()
        return True

    def sign(self) -> None:
        """Write this process's pid into the file; a child that inherited the lock by fork calls it
        too.
        """
        assert self._handle is not None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def stands(self) -> bool:
        """Return True while the locked file is the one that others see under the path.

        False means that the file was removed or replaced, so that another process may hold the
        lock too.
        """
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let the lock go; does nothing where it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def lock_holder(path: Path) -> int | None:
    """Return the pid that holds the lock now; 0 when its file does not name it, None when nobody
    holds it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # A shared lock succeeds exactly when nobody holds the exclusive one; closing releases it.
        if _flock(handle, fcntl.LOCK_SH):
            return None
        text = os.pread(handle, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(handle)


def _flock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
