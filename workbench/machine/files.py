"""Durable files: written completely or not at all, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from workbench.errors import UsageError
from workbench.text import safe_line

FULL_BYTES = 64 << 20
"""A disk with fewer free bytes counts as full. torch.save reports a full disk as a failed
assertion, so an error alone does not show it."""


def sync_path(path: Path) -> None:
    """Flush a file to disk; for a folder, flush the renames inside it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write on the folder's disk.

    Blocks reserved for root do not count. Raises OSError if the folder does not exist.
    """
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def disk_is_full(folder: Path) -> bool:
    """Return True if the disk of `folder`, or of its nearest existing parent, is full.

    A disk without free inodes is full, too.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < FULL_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


ROOM_BYTES = 1 << 20
"""Free bytes below which a disk counts as full: logs and the database's log need as much."""


def is_full_disk(error: BaseException) -> bool:
    """Return True for an error that a full disk or quota gave, in Python or in safetensors."""
    return errno_of(error) in (errno.ENOSPC, errno.EDQUOT)


def errno_of(error: BaseException) -> int | None:
    """Return the operating system's number for an error; None for an error of another kind.

    safetensors writes the number into the text of an error class of its own.
    """
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def has_room(folder: Path, need_bytes: int = ROOM_BYTES) -> bool:
    """Return True where this user can write to the folder's disk, with `need_bytes` left.

    Writes 64 KiB to an unnamed file, because a quota does not show in the free bytes. Errors other
    than a full disk or quota count as room: they have reports of their own.
    """
    try:
        if free_bytes(folder) < need_bytes:
            return False
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as refused:
        return not is_full_disk(refused)
    return True


def fresh_folder(folder: Path) -> Path:
    """Create an empty folder, and rename what was there to `NAME.old-1`, `.old-2`, …

    A database that was removed restarts its numbering, so its folders may already exist.
    """
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True)
    return folder


def rotate_log(log: Path, limit_bytes: int) -> Path:
    """Return `log`, to be appended to: its folder is there, and a file above the limit is renamed.

    It is then `NAME.log.1`, in the place of an earlier one. Raises OSError where that fails.
    """
    log.parent.mkdir(exist_ok=True)  # a person may have removed the folder of logs
    with suppress(FileNotFoundError):
        if log.stat().st_size > limit_bytes:
            log.rename(log.with_suffix(".log.1"))
    return log


def output_file(path: Path) -> Path:
    """Return the file that a person's path leads to, for `write_durably` to make or replace.

    A symbolic link stays, and the file behind it is written, as with a shell's `>`. Raises
    UsageError for what a file must not replace (a folder, device, pipe or socket), and where the
    folder of the file is missing.
    """
    name, file = safe_line(path), Path(os.path.realpath(path))
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        _check_folder_of(file, path)
        return file
    except OSError as broken:
        raise UsageError(
            f"{name} cannot be written: {broken.strerror}", hint="name another file"
        ) from broken
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name} is a folder", hint="name a file in it")
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{name} is a device, pipe or socket, which a file must not replace",
            hint="name a file",
        )
    return file


def _check_folder_of(file: Path, path: Path) -> None:
    """Raise UsageError where `file`, to which `path` leads, has no folder to lie in."""
    if not file.parent.is_dir():
        missing = file.parent if path.is_symlink() else path.parent
        raise UsageError(
            f"there is no folder {safe_line(missing)}", hint="create it, or name another file"
        )


def write_durably(path: Path, body: bytes) -> None:
    """Replace a file by `body`: write a temporary file beside it, flush it, rename it.

    A reader sees the old or the new body. Raises OSError, and leaves no temporary file behind.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with partial.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        # rename is atomic; the flush before it keeps a power failure from leaving an empty file.
        partial.rename(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)
