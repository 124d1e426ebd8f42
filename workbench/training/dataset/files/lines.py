"""Lines of a data file with their numbers, none of them longer than memory takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line

MOST_BYTES = 16 << 20
"""Of one row. The longest data.max_tokens, 2²⁰, is some 4 MiB of English."""


@dataclass(frozen=True, slots=True)
class Row:
    place: str
    """`train.jsonl:17`, or `train.parquet row 17` where there are no lines; counted from 1."""
    values: dict[str, Any]
    share: float = field(default=0.0, compare=False)
    """Of the file, how much has been read up to here; 0 where it cannot be told."""


class Lines:
    """Numbered lines with their ends, decoded one by one so that a broken byte has a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes, self._all_bytes = 0, 1

    @property
    def share(self) -> float:
        """Of the file, how much has been read."""
        return self._bytes / self._all_bytes

    def __iter__(self) -> Iterator[tuple[int, str]]:
        with self._path.open("rb") as file:
            self._all_bytes = max(1, os.fstat(file.fileno()).st_size)
            for number in count(1):
                line = file.readline(MOST_BYTES + 1)
                if not line:
                    return
                self._bytes += len(line)
                yield number, self._decoded(line, number)

    def _decoded(self, line: bytes, number: int) -> str:
        if len(line) > MOST_BYTES:
            raise too_long(place_of(self._path, number))
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as broken:
            place = place_of(self._path, number)
            raise DataError(
                f"{place}: byte {broken.start + 1} of the line is not UTF-8", hint=NOT_UTF8
            ) from broken


NOT_UTF8 = "save the file as UTF-8, e.g. iconv -f latin1 -t utf-8 old > new"


def too_long(place: str) -> DataError:
    return DataError(
        f"{place}: the row is longer than {MOST_BYTES >> 20} MiB",
        hint="is a quote or a line end missing there? Else split the row into several, or leave it "
        "out: nothing beyond data.max_tokens is trained on",
    )


def place_of(path: Path, line: int) -> str:
    return f"{name_of(path)}:{line}"


def name_of(path: Path) -> str:
    return safe_line(path.name, 120)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for people."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
