"""Readers of local data files that give every row its true line number.

`datasets` drops blank lines, numbers rows from 0 and fails late on broken UTF-8, so its errors
cannot name the line; hence these readers. pyarrow is imported only for parquet.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.disguised import refuse_disguised
from workbench.training.dataset.files.json_rows import json_rows
from workbench.training.dataset.files.lines import (
    MOST_BYTES,
    DataRow,
    Lines,
    line_place,
    too_long,
)
from workbench.training.dataset.files.packed import PACKED_ENDINGS, data_ending, is_packed
from workbench.training.dataset.files.parquet_rows import parquet_rows


def can_read(path: Path) -> bool:
    """Return whether the file's ending names a format that is read here."""
    ending = data_ending(path)
    return ending in _READERS and not (is_packed(path) and ending in _PACK_THEMSELVES)


def read_file(path: Path) -> Iterator[DataRow]:
    """Yield the rows of a local file in order; the ending of its name decides the format.

    Raises DataError with file and line for what cannot be read, also after some rows were yielded.
    """
    try:
        refuse_disguised(path)
        if not can_read(path):
            raise DataError(
                f"{safe_line(path.name, 120)} is not a kind of file that is read here",
                hint=f"convert it to one of {', '.join(_READERS)}; all but parquet may be packed "
                f"and end in {' or '.join(PACKED_ENDINGS)} behind that, as in rows.jsonl.gz",
            )
        yield from _READERS[data_ending(path)](path)
    except OSError as refused:
        raise DataError(
            f"{safe_line(path, 200)} cannot be read: {safe_line(refused.strerror or refused)}",
            hint="check the path in data.train and data.eval, and who may read the file",
        ) from refused


# ── csv, txt ─────────────────────────────────────────────────────────────────────────────────


def _csv(path: Path) -> Iterator[DataRow]:
    csv.field_size_limit(MOST_BYTES)  # its own 131,072 would refuse long documents
    lines = Lines(path)
    records = csv.reader((line for _, line in lines), strict=True)
    header: list[str] = []
    began = 1
    try:
        for record in records:
            place, began = line_place(path, began), records.line_num + 1
            if not record:
                continue
            if not header:
                header = _header(record, place)
                continue
            if len(record) != len(header):
                raise DataError(
                    f"{place}: has {len(record)} fields, the header {len(header)}",
                    hint='put fields that hold commas or line ends into double quotes: "a, b"',
                )
            yield DataRow(place, dict(zip(header, record, strict=True)), lines.share)
    except csv.Error as broken:
        if "field larger" in str(broken):
            raise too_long(line_place(path, began)) from broken
        raise DataError(
            f"{line_place(path, began)}: is not CSV: {safe_line(broken, 120)}",
            hint='close every quoted field, and write a quote inside one as ""',
        ) from broken


def _header(names: list[str], place: str) -> list[str]:
    if len(names) == 1 and (mark := next((mark for mark in _SEPARATORS if mark in names[0]), "")):
        raise DataError(
            f"{place}: the header has one column, with {_SEPARATORS[mark]} in its name",
            hint="separate the fields with commas, and put fields that hold some into quotes",
        )
    if len(set(names)) == len(names) and all(names):
        return names
    raise DataError(
        f"{place}: the header has a column twice or without a name",
        hint="give each column a name of its own in the first line; pandas writes one without a "
        "name unless it is told index=False",
    )


_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars"}
"""Characters that other programs put between the fields of a CSV file, with their names."""


def _txt(path: Path) -> Iterator[DataRow]:
    lines = Lines(path)
    for number, line in lines:
        if line.strip():
            yield DataRow(line_place(path, number), {"text": line.rstrip("\r\n")}, lines.share)


_READERS: dict[str, Callable[[Path], Iterator[DataRow]]] = {
    ".jsonl": json_rows,
    ".json": json_rows,
    ".csv": _csv,
    ".parquet": parquet_rows,
    ".txt": _txt,
}
_PACK_THEMSELVES = (".parquet",)
"""Endings of files that hold packed columns, and are never packed as a whole."""
