"""Locks for life: held by an open file, gone with the process that held it, however it ended."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

GLANCE_S = 0.1
"""`holder` has a lock for microseconds while it looks; whoever takes it then tries so long."""


class Lock:
    """An flock on `path`; the holder's pid stands in the file, for people."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self) -> bool:
        """True once it is ours; False while somebody else has it."""
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
        """Write our pid into it; a child that inherited the lock by fork signs anew."""
        assert self._handle is not None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def stands(self) -> bool:
        """True while the file we hold is the one others see; False once it was removed."""
        assert self._handle is not None
        try:
            return os.path.samestat(os.fstat(self._handle), self.path.stat())
        except OSError:
            return False

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def holder(path: Path) -> int | None:
    """The pid that holds the lock now, 0 when it will not say, None when nobody does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
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
