"""A file that reserves room on the disk. On a full disk it is deleted, so that the engine can still
write down what happened."""

from __future__ import annotations

import os
from pathlib import Path

CHUNK_BYTES = 4 << 20
"""Bytes written in one tick; it takes about 10 ms."""


def reserve_size(path: Path) -> int:
    """Return the file's bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def grow_reserve(path: Path, wanted: int) -> None:
    """Grow the file towards `wanted` bytes by at most CHUNK_BYTES, or truncate it to them.

    The file is deleted if the disk is too full for another chunk. Its bytes are random, because a
    file system that compresses would reserve nothing for zeros.
    """
    have = reserve_size(path)
    if have >= wanted:
        # The user switched the reserve off.
        if wanted == 0:
            path.unlink(missing_ok=True)
        elif have > wanted:
            os.truncate(path, wanted)
        return
    try:
        with path.open("ab") as file:
            file.write(os.urandom(min(CHUNK_BYTES, wanted - have)))
    except OSError:
        release_reserve(path)


def release_reserve(path: Path) -> int:
    """Delete the file; return the bytes that became free."""
    have = reserve_size(path)
    path.unlink(missing_ok=True)
    return have
