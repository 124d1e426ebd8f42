"""Durable files: written completely or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


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
        partial.rename(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)
