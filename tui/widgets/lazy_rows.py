"""Rows that are built when somebody looks at them: of 10,000 trials a screen shows fifty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from tui.paint import Fluid, Line, Span

Key = int | str
"""Identifies a row: a trial's or an event's id, a card's UUID, a metric's name."""
Cell = Line | Fluid | Span


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row of a RowList."""

    key: Key
    cells: tuple[Cell, ...]
    """One for each column; the cells behind a Span may be left out."""


class LazyRows(Sequence[ListRow]):
    """Rows by key, each built at its first use by `build(place)` and kept."""

    def __init__(self, keys: Sequence[Key], build: Callable[[int], ListRow]) -> None:
        self.keys = keys
        self._build = build
        self._built: dict[int, ListRow] = {}

    @classmethod
    def from_rows(cls, rows: Sequence[ListRow]) -> LazyRows:
        """Return rows that are built already as LazyRows."""
        if isinstance(rows, cls):
            return rows
        kept = list(rows)
        return cls([row.key for row in kept], kept.__getitem__)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> ListRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[ListRow]: ...
    def __getitem__(self, at: int | slice) -> ListRow | list[ListRow]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        if place not in self._built:
            self._built[place] = self._build(place)
        return self._built[place]

    def built(self, at: int) -> ListRow | None:
        """Return the row at a place if it was looked at, else None."""
        return self._built.get(at)

    def find(self, key: Key | None) -> int | None:
        """Return the place of a key; None where it is not there."""
        try:
            return self.keys.index(key)
        except ValueError:
            return None
