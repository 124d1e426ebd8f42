"""Files that are there whole or not at all, whenever we are killed."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or a folder with the renames inside it, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_bytes(folder: Path) -> int:
    """What its disk has left for us."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def fresh_folder(folder: Path) -> Path:
    """A new, empty folder; what stood there (of a database since removed) is moved aside."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
            number += 1
        folder.rename(aside)
    folder.mkdir(parents=True)
    return folder


def write_durably(path: Path, body: bytes) -> None:
    """Whole or not at all: a neighbour file, synced, renamed. OSError leaves nothing of it."""
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
    sync(path.parent)
