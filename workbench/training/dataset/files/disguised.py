"""Refusals of files whose first bytes show that they hold something else than rows.

Read as rows, they would end in an error about UTF-8 or JSON, whose hint cannot work.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from workbench.errors import DataError
from workbench.training.dataset.files.lines import file_label
from workbench.training.dataset.files.packed import (
    PACKED_ENDINGS,
    data_ending,
    has_sign,
    is_packed,
    open_data,
)

_LOOKED_AT = 64
"""Bytes of a file's beginning that are looked at."""
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip -c"),
    b"\x28\xb5\x2f\xfd": ("zstd", "zstd -dc"),
    b"BZh91AY&SY": ("bzip2", "bunzip2 -c"),
    b"\xfd7zXZ\x00": ("xz", "xz -dc"),
    b"PK\x03\x04": ("zip", "unzip -p"),
}
_WIDE = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_OFFICE = (".xlsx", ".ods", ".docx", ".odt")
"""Endings of files that are zip archives by design; unpacking them gives no rows."""
_POINTER = b"version https://git-lfs.github.com/spec/"
_PARQUET = b"PAR1"


def refuse_disguised(path: Path) -> None:
    """Raise DataError for a packed file, UTF-16, a pointer of Git LFS, a web page, or parquet.

    Each hint is a command or a step that leads to the rows. Raises OSError for an unreadable file.
    """
    with path.open("rb") as raw:
        start = raw.read(_LOOKED_AT)
    if is_packed(path) and has_sign(path, start):
        with open_data(path) as (file, _):
            start = file.read(_LOOKED_AT)
    elif is_packed(path) and not start.startswith(_POINTER):
        raise DataError(
            f"{file_label(path)}: is not packed as its ending says",
            hint=f"take {path.suffix} from its name where it holds plain rows",
        )
    _refuse_start(path, start, data_ending(path))


def _refuse_start(path: Path, start: bytes, ending: str) -> None:
    label, name = file_label(path), shlex.quote(file_label(path))
    for sign, (tool, command) in _PACKED.items():
        if start.startswith(sign) and ending not in _OFFICE:
            kept = next((kept for kept, own in PACKED_ENDINGS.items() if own == sign), "")
            or_named = f"; or let its name end in {kept}, as in rows.jsonl{kept}" if kept else ""
            raise DataError(
                f"{label}: is packed with {tool}",
                hint=f"unpack it: {command} {name} > NEW.jsonl, with the ending of what is inside"
                + or_named,
            )
    for sign, encoding in _WIDE.items():
        if start.startswith(sign):
            raise DataError(
                f"{label}: is {encoding.upper()} text",
                hint=f"save it as UTF-8: iconv -f {encoding} -t utf-8 {name} > NEW",
            )
    if start.startswith(_POINTER):
        raise DataError(
            f"{label}: is a pointer of Git LFS to the data, and not the data",
            hint="fetch the data: git lfs pull, in the folder that was cloned",
        )
    if start.startswith(_PARQUET) and ending != ".parquet":
        raise DataError(f"{label}: is a parquet file", hint="let its name end in .parquet")
    if ending != ".txt" and start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(
            f"{label}: is a web page (HTML), and not the data",
            hint="download the file itself: on the hub its link has /resolve/ and not /blob/",
        )
