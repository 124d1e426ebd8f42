"""Reads data files row by row and remembers where each row stands; imports nothing heavy.

`datasets` drops blank lines, numbers rows from 0 and loads broken UTF-8 to die on it later; here
every row knows its true line, so that a mistake in it can be named.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import DataError
from workbench.text import safe_line

_JSON_MEND = "write one JSON object a line (jsonl), or one array of objects"
_FIELD_CHARACTERS = 2**31 - 1
"""csv's own limit of 131,072 characters a field would refuse long documents."""


@dataclass(frozen=True, slots=True)
class Row:
    place: str
    """`train.jsonl:17`, or `train.parquet row 17` where there are no lines; counted from 1."""
    values: dict[str, Any]


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a local file, in order. DataError names file and line of what cannot be read."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{safe_line(path.name, 120)} is not a kind of file that is read here",
            mend=f"convert it to one of {', '.join(_READERS)}",
        )
    try:
        yield from reader(path)
    except OSError as refused:
        raise DataError(
            f"{safe_line(path, 200)} cannot be read: {safe_line(refused.strerror or refused)}",
            mend="check the path in data.train and data.eval, and who may read the file",
        ) from refused


# ── json ─────────────────────────────────────────────────────────────────────────────────────


def _json(path: Path) -> Iterator[Row]:
    """An array of objects, or one object a line: the first character tells."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _json_array(path) if start.startswith(b"[") else _json_lines(path)


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            place = _place(path, number)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as broken:
                raise _not_json(broken, place) from broken
            yield Row(place, _object(value, place))


def _json_array(path: Path) -> Iterator[Row]:
    text = "".join(line for _, line in _lines(path))
    decoder, line, counted = json.JSONDecoder(), 1, 0
    end = text.index("[") + 1
    while True:
        start = _skip(text, end, " \t\r\n")
        line, counted = line + text.count("\n", counted, start), start
        place = _place(path, line)
        if text[start : start + 1] == "]":
            break
        if start >= len(text):
            raise DataError(f"{place}: the array is not closed by ]", mend=_JSON_MEND)
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as broken:
            at = broken.lineno if isinstance(broken, json.JSONDecodeError) else line
            raise _not_json(broken, _place(path, at)) from broken
        yield Row(place, _object(value, place))
        end = _skip(text, end, " \t\r\n")
        if text[end : end + 1] == ",":
            end += 1
        elif text[end : end + 1] != "]":
            at = line + text.count("\n", counted, end)
            raise DataError(f"{_place(path, at)}: a comma is missing here", mend=_JSON_MEND)
    if text[start + 1 :].strip():
        raise DataError(f"{place}: something follows the array's end", mend=_JSON_MEND)


def _not_json(broken: Exception, place: str) -> DataError:
    what = safe_line(broken, 120)
    if isinstance(broken, json.JSONDecodeError):
        what = f"{broken.msg} at column {broken.colno}"
    return DataError(f"{place}: is not JSON: {what}", mend=_JSON_MEND)


def _object(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(f"{place}: holds {kind_of(value)}, not an object", mend=_JSON_MEND)


def _skip(text: str, start: int, characters: str) -> int:
    while start < len(text) and text[start] in characters:
        start += 1
    return start


# ── csv, txt, parquet ────────────────────────────────────────────────────────────────────────


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_FIELD_CHARACTERS)
    records = csv.reader((line for _, line in _lines(path)), strict=True)
    header: list[str] = []
    began = 1
    try:
        for record in records:
            place, began = _place(path, began), records.line_num + 1
            if not record:
                continue
            if not header:
                header = _header(record, place)
                continue
            if len(record) != len(header):
                raise DataError(
                    f"{place}: has {len(record)} fields, the header {len(header)}",
                    mend='put fields that hold commas or line ends into double quotes: "a, b"',
                )
            yield Row(place, dict(zip(header, record, strict=True)))
    except csv.Error as broken:
        raise DataError(
            f"{_place(path, records.line_num)}: is not CSV: {safe_line(broken, 120)}",
            mend='close every quoted field, and write a quote inside one as ""',
        ) from broken


def _header(names: list[str], place: str) -> list[str]:
    if len(set(names)) == len(names) and all(names):
        return names
    raise DataError(
        f"{place}: the header has a column twice or without a name",
        mend="give each column a name of its own in the first line",
    )


def _txt(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield Row(_place(path, number), {"text": line.rstrip("\r\n")})


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=512):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{_name(path)} row {number}", values)
    except (pa.ArrowException, UnicodeDecodeError) as broken:
        raise DataError(
            f"{_name(path)}, after row {number}: cannot be read: {safe_line(broken, 160)}",
            mend="write the file anew; its text columns must hold UTF-8",
        ) from broken


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _txt,
}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines with their ends, decoded one by one so that a broken byte has a line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as broken:
                raise DataError(
                    f"{_place(path, number)}: byte {broken.start + 1} of the line is not UTF-8",
                    mend="save the file as UTF-8, e.g. iconv -f latin1 -t utf-8 old > new",
                ) from broken


def _place(path: Path, line: int) -> str:
    return f"{_name(path)}:{line}"


def _name(path: Path) -> str:
    return safe_line(path.name, 120)


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for people."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true or false"
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
