"""Rows of JSON: an object a line, or one array of objects, of which a stretch is in memory."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import DataError
from workbench.text import safe_line
from workbench.training.dataset.files.lines import (
    MOST_BYTES,
    NOT_UTF8,
    Lines,
    Row,
    kind_of,
    place_of,
    too_long,
)

_MEND = "write one JSON object a line (jsonl), or one array of objects"
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = 16
"""Characters of the longest token that is no string; an error so near the end may be the cut's."""


def json_rows(path: Path) -> Iterator[Row]:
    """Either form, whatever the file is called: the first character tells."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    return _array(path) if start.startswith(b"[") else _lines(path)


def _lines(path: Path) -> Iterator[Row]:
    lines = Lines(path)
    for number, line in lines:
        if line.strip():
            place = place_of(path, number)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as broken:
                column = ""
                if isinstance(broken, json.JSONDecodeError):
                    column = f" at column {broken.colno}"
                raise _not_json(broken, place, column) from broken
            yield Row(place, _object(value, place), lines.share)


def _array(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        text = _Text(path, file)
        text.skip()
        text.take()
        text.skip()
        while text.next != "]":
            place = text.place
            if not text.next:
                raise DataError(f"{place}: the array is not closed by ]", hint=_MEND)
            yield Row(place, _object(text.value(), place), text.share)
            text.skip()
            if text.next == ",":
                text.take()
                text.skip()
            elif text.next and text.next != "]":
                raise DataError(f"{text.place}: a comma is missing here", hint=_MEND)
        text.take()
        text.skip()
        if text.next:
            raise DataError(f"{text.place}: something follows the array's end", hint=_MEND)


class _Text:
    """A file's text, read only as far as it is asked for; knows the line where it stands."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = max(1, os.fstat(file.fileno()).st_size)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1

    @property
    def place(self) -> str:
        return place_of(self._path, self._line)

    @property
    def next(self) -> str:
        """The character there; empty at the end."""
        return self._text[self._at : self._at + 1]

    @property
    def share(self) -> float:
        """Of the file, how much has been passed, a character counted as a byte."""
        return (self._file.tell() - len(self._text) + self._at) / self._size

    def take(self) -> None:
        self._at += 1

    def skip(self) -> None:
        """Go on to what is no space."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._advance(space.end())
            if self.next or not self._more():
                return

    def value(self) -> Any:
        """The JSON value there; DataError with its line."""
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self._text, self._at)
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
        """True where more text may mend it."""
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
        return _not_json(broken, place_of(self._path, line), column)

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        """Read on, as much again as is left; False at the end. What was passed is forgotten."""
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._text, self._at = self._text[self._at :], 0
        try:
            self._text += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as broken:
            line = self._line + self._text.count("\n")
            line += broken.object.count(b"\n", 0, broken.start)
            raise DataError(
                f"{place_of(self._path, line)}: holds bytes that are not UTF-8", hint=NOT_UTF8
            ) from broken
        return bool(chunk)


def _not_json(broken: Exception, place: str, column: str) -> DataError:
    what = broken.msg if isinstance(broken, json.JSONDecodeError) else safe_line(broken, 120)
    return DataError(f"{place}: is not JSON: {what}{column}", hint=_MEND)


def _object(value: Any, place: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise DataError(f"{place}: holds {kind_of(value)}, not an object", hint=_MEND)
