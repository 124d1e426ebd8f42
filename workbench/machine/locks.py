"""File locks that end with the process that holds them, however it ends (flock)."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

SHARED_FOLDERS = (Path("/run/lock"), Path("/tmp"))
"""Folders in which all users of a machine can create files, in the order of preference: nothing is
cleaned away in the first. The temp folder of TMPDIR may be another one for each user."""
SHARED_BYTES = 64
"""A shared lock contains a pid and no more. A longer file is not one, and is not written."""

GLANCE_S = 0.1
"""Seconds for which Lock.take retries, because lock_holder takes each lock for microseconds in
order to look at it.
"""


class Lock:
    """An exclusive flock on a file; the file's text is the pid of the holder, for people."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Return True while this object holds the lock."""
        return self._handle is not None

    def take(self) -> bool:
        """Return True once this process holds the lock; False while another process holds it.

        In a folder that all users share, the file can be locked by all of them. A file there that
        is no lock of ours (a link, a long file) counts as held, and is not changed.
        """
        if self._handle is not None:
            return True
        handle = _open(self.path)
        if handle is None:
            return False
        until = time.monotonic() + GLANCE_S
        while not _flock(handle, fcntl.LOCK_EX):
            if time.monotonic() > until:
                os.close(handle)
                return False
            time.sleep(0.005)
        self._handle = handle
        self.sign()
        return True

    def sign(self, pid: int | None = None) -> None:
        """Write a pid into the file: ours, or that of a child that has inherited the lock."""
        assert self._handle is not None
        if fcntl.fcntl(self._handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            return  # another user's file that we may lock and not write
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{pid or os.getpid()}\n".encode(), 0)

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
        handle = os.open(path, os.O_RDONLY | _FLAGS if _is_shared(path.parent) else os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return 0  # another user's file that we may not read: better a card less than one shared
    try:
        # A shared lock succeeds exactly when nobody holds the exclusive one; closing releases it.
        if _flock(handle, fcntl.LOCK_SH):
            return None
        text = os.pread(handle, 32, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(handle)


def shared_folder(folders: tuple[Path, ...] = SHARED_FOLDERS) -> Path | None:
    """Return a folder for locks that all users of this machine share; None if there is none.

    It must be sticky, so that no user can remove another one's lock.
    """
    return next((folder for folder in folders if _is_shared(folder)), None)


_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and a FIFO does not block."""


def _is_shared(folder: Path) -> bool:
    try:
        mode = folder.stat().st_mode
    except OSError:
        return False
    return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)


def _open(path: Path) -> int | None:
    """Open a lock's file, and create it if needed; None for a shared file that is no lock."""
    if not _is_shared(path.parent):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        handle = _open_shared(path)
    except PermissionError:
        return None
    except OSError as refused:
        if path.is_symlink():
            return None
        raise refused
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size <= SHARED_BYTES:
        return handle
    os.close(handle)
    return None


def _open_shared(path: Path) -> int:
    """Open or create a file that every user can lock.

    Created exclusively: Linux refuses O_CREAT for an existing file of another user in a sticky
    folder (fs.protected_regular). Every user may write it, so that the holder can sign.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
    except FileExistsError:
        try:
            return os.open(path, os.O_RDWR | _FLAGS)
        except PermissionError:
            return os.open(path, os.O_RDONLY | _FLAGS)  # flock needs no write permission
    os.fchmod(handle, 0o666)  # the mode of os.open is restricted by the umask
    return handle


def _flock(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
