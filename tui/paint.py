"""Coloured text as plain data: parts with a tone each, cut and wrapped by terminal cells.

Nothing here reads markup, so foreign text stays text. A tone is a name; the theme gives it colour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len, set_cell_size

from workbench.text import safe_line

Part = tuple[str, str]
"""Text without control characters, and its tone."""
Line = tuple[Part, ...]

SERIES = 8
"""Curves told apart at once."""
TONES = (
    "dim",
    "faint",
    "head",
    "bold",
    "accent",
    "good",
    "live",
    "warn",
    "bad",
    *(f"s{n}" for n in range(SERIES)),
)
"""Every tone but the plain one, which is the empty string."""

_WORDS = re.compile(r"\s*\S+|\s+$")


def plain(text: object, tone: str = "", limit: int = 400) -> Part:
    """A part of foreign text: one line, no escapes, no control characters."""
    return (safe_line(text, limit), tone)


def width(line: Line) -> int:
    return sum(cell_len(text) for text, _ in line)


def text_of(line: Line) -> str:
    return "".join(text for text, _ in line)


def fit(line: Line, cells: int, align: str = "left") -> Line:
    """Exactly `cells` wide: padded, or cut with an ellipsis."""
    have = width(line)
    if have <= cells:
        pad = (" " * (cells - have), "")
        if have == cells:
            return line
        return (pad, *line) if align == "right" else (*line, pad)
    return _cut(line, cells)


def _cut(line: Line, cells: int) -> Line:
    if cells <= 0:
        return ()
    kept: list[Part] = []
    room = cells - 1
    for text, tone in line:
        have = cell_len(text)
        if have > room:
            kept.append((set_cell_size(text, room) + "…", tone))
            break
        kept.append((text, tone))
        room -= have
    return tuple(kept)


def join(parts: Iterable[Line], between: Part = (" ", "")) -> Line:
    """The lines one after another, with `between` between them; empty ones are left out."""
    out: list[Part] = []
    for line in parts:
        if not line:
            continue
        if out:
            out.append(between)
        out.extend(line)
    return tuple(out)


def wrap(line: Line, cells: int, indent: int = 0) -> list[Line]:
    """Broken between words into lines of at most `cells`; later ones are indented."""
    cells = max(cells, indent + 4)
    out: list[Line] = []
    row: list[Part] = []
    room = cells
    for word, tone in _words(line, cells - indent):
        if cell_len(word) > room and row:
            out.append(merged(row))
            row = [(" " * indent, "")] if indent else []
            room = cells - indent
            word = word.lstrip()
        row.append((word, tone))
        room -= cell_len(word)
    if row or not out:
        out.append(merged(row))
    return out


def merged(parts: Iterable[Part]) -> Line:
    """The same text with neighbours of one tone made one."""
    out: list[Part] = []
    for text, tone in parts:
        if out and out[-1][1] == tone:
            out[-1] = (out[-1][0] + text, tone)
        else:
            out.append((text, tone))
    return tuple(out)


def _words(line: Line, cells: int) -> Iterable[Part]:
    """Words with the blanks before them; one wider than a line is cut to pieces."""
    for text, tone in line:
        for word in _WORDS.findall(text):
            while cell_len(word) > cells:
                head = set_cell_size(word, cells).rstrip() or word[:1]
                yield head, tone
                word = word[len(head) :]
            if word:
                yield word, tone


def bar(share: float | None, cells: int, tone: str = "live") -> Line:
    """A heavy rule for what is done and a light one for the rest, so it reads without colour."""
    if share is None:
        return (("┄" * cells, "faint"),)
    full = min(cells, max(0, int(share * cells + 0.5)))
    return (("━" * full, tone), ("─" * (cells - full), "faint"))


class Fluid(Protocol):
    """Something that is drawn as wide as its column turns out to be."""

    def line(self, cells: int) -> Line: ...


@dataclass(frozen=True, slots=True)
class Gauge:
    """A bar as wide as the room it is given, with its percentage behind it where asked for."""

    share: float | None
    tone: str = "live"
    percent: bool = False

    def line(self, cells: int) -> Line:
        if not self.percent:
            return bar(self.share, cells, self.tone)
        if self.share is None:
            return ()
        tone = "" if self.tone == "live" else self.tone
        return (*bar(self.share, max(0, cells - 5), self.tone), (f" {self.share:4.0%}", tone))


@dataclass(frozen=True, slots=True)
class Span:
    """A line that takes the room of its own column and of all behind it."""

    line: Line


def cut_to(text: str, cells: int) -> str:
    """`text`, with an ellipsis where it is wider than `cells`."""
    return text_of(_cut(((text, ""),), cells)) if cell_len(text) > cells else text
