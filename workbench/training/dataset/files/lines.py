"""The row type, and numbered lines of a data file with a bound on their length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.packed import open_data

MOST_BYTES = 16 << 20
"""Bytes of the longest row that is read.

The largest data.max_tokens, 2²⁰, is about 4 MiB of English.
"""


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row of a data file as it was read, with its place for messages."""

    place: str
    """`train.jsonl:17`, or `train.parquet row 17` where there are no lines; counted from 1."""
    values: dict[str, Any]
    share: float = field(default=0.0, compare=False)
    """The share of the file read up to and including this row, 0 to 1; 0 where it is unknown."""


class Lines:
    """The lines of a file as (number, text with its line end), counted from 1.

    Each is decoded by itself, so that the error for a byte that is not UTF-8 names its line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._share: Callable[[], float] = lambda: 0.0

    @property
    def share(self) -> float:
        """The share of the file that was read, 0 to 1; of a packed one, of its packed bytes."""
        return self._share()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        with open_data(self._path) as (file, self._share):
            for number in count(1):
                line = file.readline(MOST_BYTES + 1)
                if not line:
                    return
                yield number, self._decoded(line, number)

    def _decoded(self, line: bytes, number: int) -> str:
        if len(line) > MOST_BYTES:
            raise too_long(line_place(self._path, number))
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as broken:
            place = line_place(self._path, number)
            raise DataError(
                f"{place}: byte {broken.start + 1} of the line is not UTF-8", hint=NOT_UTF8
            ) from broken


NOT_UTF8 = "save the file as UTF-8, e.g. iconv -f latin1 -t utf-8 old > new"


def too_long(place: str) -> DataError:
    """Return the error for a row longer than `MOST_BYTES`."""
    return DataError(
        f"{place}: the row is longer than {MOST_BYTES >> 20} MiB",
        hint="is a quote or a line end missing there? Else split the row into several, or leave it "
        "out: nothing beyond data.max_tokens is trained on",
    )


def line_place(path: Path, line: int) -> str:
    """Return the place of a line, e.g. `train.jsonl:17`, without terminal escapes."""
    return f"{file_label(path)}:{line}"


def file_label(path: Path) -> str:
    """Return the file's name without its folder, safe to print."""
    return safe_line(path.name, 120)


def json_kind(value: Any) -> str:
    """Return what kind of JSON value this is, in words for people: "text", "a number", …"""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    if isinstance(value, date | time | timedelta):
        return "a date or time"
    return names.get(type(value), type(value).__name__)
