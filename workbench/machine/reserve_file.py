"""A file that takes up room until the disk is full; given up, it leaves room to tell of it."""

from __future__ import annotations

import os
from pathlib import Path

CHUNK_BYTES = 4 << 20
"""Written in one go: some ten milliseconds of a tick."""


def held(path: Path) -> int:
    """Bytes it holds now."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def grow(path: Path, wanted: int) -> None:
    """One chunk nearer to `wanted` bytes, or cut to them. A disk too full for it gets all back.

    Random bytes: a file system that compresses would keep nothing back for zeros.
    """
    have = held(path)
    if have >= wanted:
        if wanted == 0:
            path.unlink(missing_ok=True)
        elif have > wanted:
            os.truncate(path, wanted)
        return
    try:
        with path.open("ab") as file:
            file.write(os.urandom(min(CHUNK_BYTES, wanted - have)))
    except OSError:
        release(path)


def release(path: Path) -> int:
    """Give it up; the bytes that are free again."""
    have = held(path)
    path.unlink(missing_ok=True)
    return have
