"""Strips as rows of cells, so that two pictures of the screen can be compared cell by cell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from tui.wire.pens import PLAIN, Pen

Cell = tuple[str, Pen]
"""What one cell shows. Behind a wide character stand cells with the empty string."""
Row = list[Cell]
PenReader = Callable[[Style | None], Pen]

_NARROW = re.compile(
    r"[\x20-\x7e\u00a0-\u02ff\u2010-\u2027\u2190-\u21ff\u2500-\u259f\u2800-\u28ff]*"
)
"""Text of which every character takes one cell in every terminal."""


def blank_row(cells: int, pen: Pen = PLAIN) -> Row:
    """Return a row of that many blanks."""
    return [(" ", pen.on_blanks)] * cells


def segment_cells(segments: Iterable[Segment], read_pen: PenReader) -> Row:
    """Return the cells of the segments; control segments are left out."""
    row: Row = []
    for text, style, control in segments:
        if control or not text:
            continue
        pen = read_pen(style)
        if text.isspace() and text.isascii():
            row += [(" ", pen.on_blanks)] * len(text)
        elif _NARROW.fullmatch(text):
            blank = (" ", pen.on_blanks)
            row += [blank if char == " " else (char, pen) for char in text]
        else:
            row += _wide_cells(text, pen)
    return row


def _wide_cells(text: str, pen: Pen) -> Row:
    """Return the cells of text with characters of two cells or none.

    What is made of several characters, as flags and families are, becomes one unit.
    """
    row: Row = []
    for char in text:
        width = cell_len(char)
        if width:
            row.append((char, pen.on_blanks if char == " " else pen))
            row += [("", pen)] * (width - 1)
        elif row:  # a combining character joins the one before it
            at = next((n for n in range(len(row) - 1, -1, -1) if row[n][0]), 0)
            row[at] = (row[at][0] + char, pen)
    have = cell_len(text)
    return row if len(row) == have else [(text, pen), *[("", pen)] * (have - 1)]
