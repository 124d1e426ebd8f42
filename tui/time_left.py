"""How long trials have left, from the steps that were seen to go by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.service import TrialRow
from workbench.trial import State


@dataclass(frozen=True, slots=True)
class _Seen:
    started_utc: float | None
    first: tuple[int, float] | None
    """A step and when it was seen: the start of the stretch that is timed."""
    newest: tuple[int, float]


class Pace:
    """Seconds a step for each live trial; starts anew with each attempt.

    Until two steps were seen the attempt's own average is taken, where it is the first and so
    began at step 0; a later attempt's first step is not known here.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def see(self, rows: Iterable[TrialRow], now: float) -> None:
        fresh: dict[int, _Seen] = {}
        for row in rows:
            if row.state is not State.RUNNING or not row.step:
                continue
            old = self._seen.get(row.id)
            if old is None or old.started_utc != row.started_utc or row.step < old.newest[0]:
                began = row.started_utc if row.attempts == 1 else None
                first = (row.step, now) if began is None else (0, began)
                fresh[row.id] = _Seen(row.started_utc, first, (row.step, now))
            elif row.step > old.newest[0]:
                fresh[row.id] = _Seen(row.started_utc, old.first, (row.step, now))
            else:
                fresh[row.id] = old
        self._seen = fresh

    def left_s(self, row: TrialRow, now: float) -> float | None:
        """None while there is nothing to go by."""
        seen = self._seen.get(row.id)
        if seen is None or not row.total_steps or seen.first is None:
            return None
        (first, began), (step, at) = seen.first, seen.newest
        if step <= first or at <= began:
            return None
        each = (at - began) / (step - first)
        return max(0.0, (row.total_steps - step) * each - (now - at))
