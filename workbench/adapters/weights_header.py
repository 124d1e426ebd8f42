"""Names, types and shapes of the tensors in a safetensors file, read without its numbers."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.text import safe_line

MOST_HEADER_BYTES = 64 << 20
"""Largest header that is read. That of an adapter on every layer of a 70B model has 0.3 MiB."""
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Type and shape of one stored tensor."""

    dtype: str
    """The name that safetensors uses, for example F32 or BF16."""
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file by name.

    Format: eight bytes with the header's length, the header as JSON, the numbers
    (huggingface.co/docs/safetensors). Only floating-point tensors are accepted, and their bytes
    must fill the file exactly. Raises CheckpointError for anything else.
    """
    try:
        about = file.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(MOST_HEADER_BYTES, about.st_size - 8):
                raise ValueError("its header's length is impossible")
            header = json.loads(opened.read(length))
            size = os.fstat(opened.fileno()).st_size
        return _tensors(header, size - 8 - length)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as broken:
        raise CheckpointError(
            f"{safe_line(file, 200)} is no whole safetensors file: {safe_line(broken, 120)}",
            hint="copy the adapter's folder again, or save it again where it was trained",
        ) from broken


def _tensors(header: dict[str, dict[str, Any]], stored_bytes: int) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int]] = []
    for name, about in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = str(about["dtype"]), tuple(about["shape"])
        if dtype not in _SIZES:
            raise ValueError(f"{name} holds {dtype}, no floating-point numbers")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"the shape of {name} is impossible")
        begin, end = about["data_offsets"]
        info = TensorInfo(dtype, shape)
        if end - begin != info.values * _SIZES[dtype]:
            raise ValueError(f"{name} has another size than its shape says")
        found[name] = info
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    if at != stored_bytes:
        raise ValueError("it was cut off, or something was appended to it")
    return found
