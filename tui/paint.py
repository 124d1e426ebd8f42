"""Coloured text as plain data: parts with a tone each, cut and wrapped by terminal cells.

Nothing here parses markup, so foreign text stays text. A tone is a name; the theme maps it to a
colour. Widths count terminal cells: a wide character takes two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len, set_cell_size

from workbench.formatting import percent
from workbench.text import safe_line

Part = tuple[str, str]
"""Text without control characters, and its tone."""
Line = tuple[Part, ...]
"""Parts that stand beside each other."""

SERIES = 8
"""Curves that can be distinguished on one chart."""
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
"""Every tone except the plain one, which is the empty string."""

_WORDS = re.compile(r"\s*\S+|\s+$")


def plain_part(text: object, tone: str = "", limit: int = 400) -> Part:
    """Return foreign text as a part: one line without escapes and control characters."""
    return (safe_line(text, limit), tone)


def line_width(line: Line) -> int:
    """Return how many terminal cells the line takes."""
    return sum(cell_len(text) for text, _ in line)


def line_text(line: Line) -> str:
    """Return the line's text without its tones."""
    return "".join(text for text, _ in line)


def fit_line(line: Line, cells: int, align: str = "left") -> Line:
    """Return the line exactly `cells` wide: padded, or cut with an ellipsis."""
    have = line_width(line)
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


def join_lines(parts: Iterable[Line], between: Part = (" ", "")) -> Line:
    """Return the lines as one, with `between` between them; empty lines are left out."""
    out: list[Part] = []
    for line in parts:
        if not line:
            continue
        if out:
            out.append(between)
        out.extend(line)
    return tuple(out)


def wrap_line(line: Line, cells: int, indent: int = 0) -> list[Line]:
    """Break the line between words into lines of at most `cells` cells; indent all but the first.

    A word longer than a line is cut. The result holds at least one line.
    """
    cells = max(cells, indent + 4)
    out: list[Line] = []
    row: list[Part] = []
    room = cells
    for word, tone in _words(line, cells - indent):
        if cell_len(word) > room and row:
            out.append(merge_parts(row))
            row = [(" " * indent, "")] if indent else []
            room = cells - indent
            word = word.lstrip()
        row.append((word, tone))
        room -= cell_len(word)
    if row or not out:
        out.append(merge_parts(row))
    return out


def merge_parts(parts: Iterable[Part]) -> Line:
    """Return the same text with neighbouring parts of one tone merged."""
    out: list[Part] = []
    for text, tone in parts:
        if out and out[-1][1] == tone:
            out[-1] = (out[-1][0] + text, tone)
        else:
            out.append((text, tone))
    return tuple(out)


def _words(line: Line, cells: int) -> Iterable[Part]:
    """Yield words with the blanks before them; a word wider than a line comes in pieces."""
    for text, tone in line:
        for word in _WORDS.findall(text):
            while cell_len(word) > cells:
                head = set_cell_size(word, cells).rstrip() or word[:1]
                yield head, tone
                word = word[len(head) :]
            if word:
                yield word, tone


def done_bar(share: float | None, cells: int, tone: str = "live") -> Line:
    """Return a bar: a heavy rule for the done share, a light one for the rest, dots for unknown.

    The difference in weight makes it readable without colour.
    """
    if share is None:
        return (("┄" * cells, "faint"),)
    full = min(cells, max(0, int(share * cells + 0.5)))
    return (("━" * full, tone), ("─" * (cells - full), "faint"))


class Fluid(Protocol):
    """A cell that is drawn as wide as its column."""

    def line(self, cells: int) -> Line:
        """Return the content on at most `cells` cells."""
        ...


@dataclass(frozen=True, slots=True)
class Gauge:
    """A progress bar as wide as its column, with the percentage behind it if `percent`."""

    share: float | None
    tone: str = "live"
    percent: bool = False

    def line(self, cells: int) -> Line:
        """Return bar and percentage on exactly `cells` cells; nothing for an unknown percentage."""
        if not self.percent:
            return done_bar(self.share, cells, self.tone)
        if self.share is None:
            return ()
        tone = "" if self.tone == "live" else self.tone
        return (
            *done_bar(self.share, max(0, cells - 5), self.tone),
            (f" {percent(self.share):>4}", tone),
        )


@dataclass(frozen=True, slots=True)
class Span:
    """A cell that takes the space of its own column and of all columns behind it."""

    line: Line


def cut_text(text: str, cells: int) -> str:
    """Return `text`, cut with an ellipsis where it is wider than `cells`."""
    return line_text(_cut(((text, ""),), cells)) if cell_len(text) > cells else text
