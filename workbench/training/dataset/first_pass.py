"""The first pass over the rows: each is read and checked, and all refused are reported at once.

No row is kept, so a file may be larger than memory; the second pass tokenises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from workbench.errors import DataError
from workbench.training.dataset.files.lines import DataRow
from workbench.training.dataset.files.sources import DataSource

Progress = Callable[[str, int, int], None]
"""A callback (stage, done, total) for progress; total is 0 while it is unknown."""

_EVERY = 500
_NAMED = 3


def survey_rows(
    source: DataSource,
    what: str,
    progress: Progress,
    limit: int | None,
    checks: list[Callable[[DataRow], object]],
) -> int:
    """Apply `checks` to each of the first `limit` rows and return how many rows there are.

    `what` names them in progress and messages ("training"). Raises DataError when there are no
    rows, or when a check refuses some: with the first one's reason and the number of the others.
    A refused first row ends the pass at once, because it usually stands for all.
    """
    rows, refused = 0, RefusedRows()
    for row in islice(source.read(), limit):
        rows += 1
        if rows % _EVERY == 0:
            progress(f"reading {what} rows", rows, limit or _estimated_total(rows, row.share))
        try:
            for check in checks:
                check(row)
        except DataError as wrong:
            if rows == 1:
                raise
            refused.add(row, wrong)
    if rows == 0:
        raise DataError(
            f"{source.short_name} holds no {what} rows",
            hint="the file is empty; check data.train and data.eval",
        )
    if refused.rows:
        raise refused.error(f"{rows} rows")
    progress(f"reading {what} rows", rows, rows)
    return rows


def _estimated_total(rows: int, share: float) -> int:
    """Estimate the file's row count from the share read so far; 0 where the share is unknown.

    Rounded to two digits, so that the shown total does not change with every update.
    """
    if not share:
        return 0
    total = int(rows / share)
    return max(rows, round(total, 2 - len(str(total))))


class RefusedRows:
    """The rows that checks refused: the first error, and the places of a few others."""

    def __init__(self) -> None:
        self._first: DataError | None = None
        self._others: list[str] = []
        self.rows = 0

    def add(self, row: DataRow, wrong: DataError) -> None:
        """Count a row and why it is refused."""
        self.rows += 1
        if self._first is None:
            self._first = wrong
        elif len(self._others) < _NAMED:
            self._others.append(row.place)

    def error(self, looked_at: str) -> DataError:
        """Return the first row's error, which names others of the rows that were looked at."""
        assert self._first is not None, "no row was added"
        more = self.rows - 1
        if not more:
            return self._first
        named = ", ".join(self._others) + (", …" if more > _NAMED else "")
        return DataError(
            f"{self._first.what}; {more} more of {looked_at} cannot be used either ({named})",
            hint=self._first.hint,
        )


def reread_rows(source: DataSource, limit: int | None) -> Iterator[DataRow]:
    """Read the source again from its start, at most `limit` rows."""
    return islice(source.read(), limit)
