"""A streaming reader of JSON rows: one object a line, or one array of objects.

Only a stretch of the file is in memory, a little more than its longest row.
"""

from __future__ import annotations

import codecs
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.lines import (
    MOST_BYTES,
    NOT_UTF8,
    DataRow,
    Lines,
    file_label,
    json_kind,
    line_place,
    too_long,
)
from workbench.training.dataset.files.packed import open_data

_HINT = "write one JSON object a line (jsonl), or one array of objects"
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_WHOLE_BYTES = 64 << 20
"""Size up to which a file that is no JSON lines is read whole, to say what it is instead."""
_WORD = 16
"""Characters of the longest JSON token that is no string.

A syntax error this near the end of the text read so far may vanish when more is read.
"""


def json_rows(path: Path) -> Iterator[DataRow]:
    """Yield the rows of a JSON file; its first character decides between lines and an array.

    Raises DataError with file and line for what is not JSON, not an object, or too long.
    """
    with open_data(path) as (file, _):
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _array(path) if start.startswith(b"[") else _lines(path)


def _lines(path: Path) -> Iterator[DataRow]:
    lines = Lines(path)
    seen = False
    for number, line in lines:
        if line.strip():
            place = line_place(path, number)
            try:
                value = _DECODER.decode(line)
            except (ValueError, RecursionError) as broken:
                column = ""
                if isinstance(broken, json.JSONDecodeError):
                    if not seen:
                        _refuse_other_layouts(path, line)
                    column = f" at column {broken.colno}"
                raise _not_json(broken, place, column) from broken
            seen = True
            yield DataRow(place, _object(value, place), lines.share)


def _array(path: Path) -> Iterator[DataRow]:
    with open_data(path) as (file, share):
        text = _Text(path, file, share)
        text.skip()
        text.take()
        text.skip()
        while text.next != "]":
            place = text.place
            if not text.next:
                raise DataError(f"{place}: the array is not closed by ]", hint=_HINT)
            yield DataRow(place, _object(text.value(), place), text.share)
            text.skip()
            if text.next == ",":
                text.take()
                text.skip()
            elif text.next and text.next != "]":
                raise DataError(f"{text.place}: a comma is missing here", hint=_HINT)
        text.take()
        text.skip()
        if text.next:
            raise DataError(f"{text.place}: something follows the array's end", hint=_HINT)


class _Text:
    """A cursor over a file's text that reads on as needed and knows its line."""

    def __init__(self, path: Path, file: BinaryIO, share: Callable[[], float]) -> None:
        self._path = path
        self._file = file
        self._share = share
        self._read = 1
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1

    @property
    def place(self) -> str:
        return line_place(self._path, self._line)

    @property
    def next(self) -> str:
        """The character at the cursor; empty at the end of the text read so far."""
        return self._text[self._at : self._at + 1]

    @property
    def share(self) -> float:
        """The share of the file that was passed, 0 to 1; a character is counted as a byte."""
        return self._share() * (self._read - len(self._text) + self._at) / self._read

    def take(self) -> None:
        self._at += 1

    def skip(self) -> None:
        """Advance to the next character that is no white space, or to the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._advance(space.end())
            if self.next or not self._more():
                return

    def value(self) -> Any:
        """Return the JSON value at the cursor and advance past it; DataError names its line."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as broken:
                refused = self._refusal(broken)
                if not self._cut(broken):
                    raise refused from broken
                if len(self._text) - self._at > MOST_BYTES:
                    raise too_long(self.place) from broken
                if not self._more():
                    raise refused from broken
            else:
                if end - self._at > MOST_BYTES:
                    raise too_long(self.place)
                self._advance(end)
                return value

    def _cut(self, broken: Exception) -> bool:
        """Return whether the error may vanish once more of the file is read."""
        if not isinstance(broken, json.JSONDecodeError):
            return False
        unclosed = broken.msg.startswith("Unterminated string")
        return unclosed or broken.pos >= len(self._text) - _WORD

    def _refusal(self, broken: Exception) -> DataError:
        if not isinstance(broken, json.JSONDecodeError):
            return _not_json(broken, self.place, "")
        line = self._line + self._text.count("\n", self._at, broken.pos)
        begin = self._text.rfind("\n", 0, broken.pos)
        column = f" at column {broken.pos - begin}" if begin >= 0 else ""
        return _not_json(broken, line_place(self._path, line), column)

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read another chunk and drop the passed text; return False at the end of the file.

        The chunk is at least as long as the unread text, so that a long value costs linear time.
        """
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._read += len(chunk)
        self._text, self._at = self._text[self._at :], 0
        try:
            self._text += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as broken:
            line = self._line + self._text.count("\n")
            line += broken.object.count(b"\n", 0, broken.start)
            raise DataError(
                f"{line_place(self._path, line)}: holds bytes that are not UTF-8", hint=NOT_UTF8
            ) from broken
        return bool(chunk)


def _refuse_other_layouts(path: Path, line: str) -> None:
    """Raise DataError for layouts of a first line that are nearly JSON lines; else return.

    These are objects over several lines, several objects on one line, and a comma behind each.
    """
    if _is_object(line.rstrip().removesuffix(",")):
        raise DataError(
            f"{file_label(path)}: has a comma behind each row",
            hint=f"take them out: sed 's/, *$//' {shlex.quote(file_label(path))} > NEW.jsonl",
        )
    if line.lstrip().startswith("{'"):
        raise DataError(
            f"{file_label(path)}: holds objects as Python prints them, in single quotes",
            hint="write each row with json.dumps(row) and not with str(row)",
        )
    with open_data(path) as (file, _):
        whole = file.read(_WHOLE_BYTES + 1)
    if len(whole) > _WHOLE_BYTES:
        return
    text = whole.decode("utf-8-sig", errors="replace").strip()
    name = shlex.quote(file_label(path))
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    if text[end:].strip():
        several = "objects over several lines each"
        held = several if "\n" in text[:end] else "several objects on one line"
        raise DataError(
            f"{file_label(path)}: holds {held}",
            hint=f"write each object on a line of its own: jq -c . {name} > NEW.jsonl",
        )
    raise DataError(
        f"{file_label(path)}: is one object over several lines, and not rows",
        hint=rows_inside_hint(value) or "write the object on one line, or put [ ] around it",
    )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def rows_inside_hint(values: Mapping[str, Any]) -> str:
    """Return a hint to take the rows out of an object that holds a list of them; else nothing."""
    for key, value in values.items():
        rows = value if isinstance(value, list) else []
        turns = any(isinstance(one, dict) and ("role" in one or "from" in one) for one in rows)
        if rows and not turns and all(isinstance(one, dict) for one in rows):
            inner = shlex.quote(f".[{json.dumps(safe_line(key, 60), ensure_ascii=False)}]")
            return (
                f"take the list of {len(rows)} objects under {safe_line(key, 60)} out, into a "
                f"file of its own: jq {inner} OLD.json > NEW.json"
            )
    return ""


class _KeyTwiceError(ValueError):
    """A key that stands twice in one object; JSON readers disagree on which value counts."""


def _without_copies(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise _KeyTwiceError(f"the key {safe_line(twice, 60)} stands twice in one object")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_copies)


def parse_json(text: str) -> Any:
    """Return what JSON text says; ValueError for another, and for a key that stands twice."""
    return _DECODER.decode(text)


def _not_json(broken: Exception, place: str, column: str) -> DataError:
    if isinstance(broken, _KeyTwiceError):
        return DataError(f"{place}: {broken}", hint="keep one of the two, or rename the other")
    what = broken.msg if isinstance(broken, json.JSONDecodeError) else safe_line(broken, 120)
    return DataError(f"{place}: is not JSON: {what}{column}", hint=_HINT)


def _object(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(f"{place}: holds {json_kind(value)}, not an object", hint=_HINT)
