"""The columns of a list, and how wide each is in the room that the list has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
"""Blank cells between two columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column's title and how its width follows from the width of the list."""

    title: str
    width: int
    """The least width in cells."""
    grow: int = 0
    """Its share of the cells that are left over."""
    most: int = 400
    """The greatest width in cells."""
    drop: int = 0
    """The column with the highest number is dropped first where space is short; 0 always stays."""
    right: bool = False
    """True if cells are aligned to the right."""


def arrange_columns(columns: Sequence[Column], width: int) -> list[int | None]:
    """Return each column's width in cells, None for a column that is left out.

    Columns are dropped until the rest fits; spare cells go to the columns that grow.
    """
    shown = list(range(len(columns)))

    def need() -> int:
        return sum(columns[i].width for i in shown) + GAP * (len(shown) - 1)

    while need() > width and any(columns[i].drop for i in shown):
        shown.remove(max(shown, key=lambda i: (columns[i].drop, i)))
    widths = {i: columns[i].width for i in shown}
    spare = width - need()
    while spare > 0:
        open_ = [i for i in shown if columns[i].grow and widths[i] < columns[i].most]
        weight = sum(columns[i].grow for i in open_)
        if not open_:
            break
        before = spare
        for i in open_:
            more = min(columns[i].most - widths[i], before * columns[i].grow // weight, spare)
            widths[i] += more
            spare -= more
        if spare == before:  # every share was rounded down to nothing
            widths[open_[0]] += 1
            spare -= 1
    return [widths.get(i) for i in range(len(columns))]
