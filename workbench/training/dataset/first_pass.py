"""The first look at rows: all are read once, counted, and what misfits is told together.

Nothing is kept of a row, so a file may be larger than memory; the second look tokenises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from workbench.errors import DataError
from workbench.training.dataset.files.rows import Row
from workbench.training.dataset.files.sources import Source

Progress = Callable[[str, int, int], None]
"""Stage, done, total (0 while it is not known)."""

_EVERY = 500
_NAMED = 3


def survey(
    source: Source,
    what: str,
    progress: Progress,
    limit: int | None,
    looks: list[Callable[[Row], object]],
) -> int:
    """How many rows there are, each shown to `looks`.

    DataError when there are none, or for the rows that a look refuses: the first with its reason,
    and how many more there are.
    """
    rows, refused = 0, _Refused()
    for row in islice(source.read(), limit):
        rows += 1
        if rows % _EVERY == 0:
            progress(f"reading {what} rows", rows, limit or _about(rows, row.share))
        try:
            for look in looks:
                look(row)
        except DataError as wrong:
            if rows == 1:
                raise
            refused.add(row, wrong)
    if rows == 0:
        name = source.path.name if source.path else source.name
        raise DataError(
            f"{name} holds no {what} rows",
            hint="the file is empty; check data.train and data.eval",
        )
    refused.check(rows)
    progress(f"reading {what} rows", rows, rows)
    return rows


def _about(rows: int, share: float) -> int:
    """How many rows there will be, to two digits, so that it stays put; 0 if nothing tells."""
    if not share:
        return 0
    total = int(rows / share)
    return max(rows, round(total, 2 - len(str(total))))


class _Refused:
    def __init__(self) -> None:
        self._first: DataError | None = None
        self._others: list[str] = []
        self._rows = 0

    def add(self, row: Row, wrong: DataError) -> None:
        self._rows += 1
        if self._first is None:
            self._first = wrong
        elif len(self._others) < _NAMED:
            self._others.append(row.place)

    def check(self, rows: int) -> None:
        if self._first is None:
            return
        more = self._rows - 1
        if not more:
            raise self._first
        named = ", ".join(self._others) + (", …" if more > _NAMED else "")
        raise DataError(
            f"{self._first.what}; {more} more of {rows} rows cannot be used either ({named})",
            hint=self._first.hint,
        )


def again(source: Source, limit: int | None) -> Iterator[Row]:
    """The same rows once more."""
    return islice(source.read(), limit)
