"""Data files as bytes: unpacked on the way where their names end in .gz or .zst.

A packed file may have several members (gzip) or frames (zstd), one behind another, as tools that
write in parallel leave it. pyarrow is imported only for zstd.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO, cast

from workbench.errors import DataError
from workbench.text import safe_line

PACKED_ENDINGS = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}
"""The endings of packed files, each with the bytes that such a file begins with."""
_SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 2 to 4 of a zstd frame without data, as pzstd puts one in front."""
_CHUNK = 1 << 16


def is_packed(path: PurePath) -> bool:
    """Return whether the file's ending says that it is packed."""
    return path.suffix.lower() in PACKED_ENDINGS


def data_ending(path: PurePath) -> str:
    """Return the ending that names the kind of rows: `.jsonl` for `rows.jsonl.gz`, too."""
    inner = PurePath(path.stem) if is_packed(path) else path
    return inner.suffix.lower()


def has_sign(path: PurePath, start: bytes) -> bool:
    """Return whether a file that begins with `start` is packed as its ending says."""
    ending = path.suffix.lower()
    skippable = ending == ".zst" and start[1:4] == _SKIPPABLE
    return start.startswith(PACKED_ENDINGS[ending]) or skippable


@contextmanager
def open_data(path: Path) -> Iterator[tuple[BinaryIO, Callable[[], float]]]:
    """Open a data file for reading; yield its unpacked bytes and the share read so far, 0 to 1.

    Raises DataError, also while it is read, for a packed file that is damaged or cut off, and
    OSError for one that cannot be read.
    """
    with path.open("rb") as raw:
        size = max(1, os.fstat(raw.fileno()).st_size)

        def share() -> float:
            return min(1.0, raw.tell() / size)

        if not is_packed(path):
            yield raw, share
            return
        try:
            yield _unpacked(path, raw), share
        except (OSError, EOFError, zlib.error) as broken:
            if isinstance(broken, OSError) and broken.errno is not None:
                raise  # of the disk, and not of what is packed
            raise DataError(
                f"{safe_line(path.name, 120)}: is damaged or cut off: {safe_line(broken, 120)}",
                hint="download or copy the file again, or pack it again",
            ) from broken


def _unpacked(path: Path, raw: BinaryIO) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    import pyarrow as pa  # type: ignore[import-untyped]

    return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), _CHUNK)
