"""Estimates of the time that running trials have left, from the steps observed so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.service import TrialRow
from workbench.trial import State


@dataclass(frozen=True, slots=True)
class _Observed:
    """The observations of one attempt: steps with the time at which each was first seen."""

    started_utc: float | None
    first: tuple[int, float] | None
    """The start of the stretch that is timed."""
    newest: tuple[int, float]


class Pace:
    """Seconds per step of each running trial, measured again for each attempt.

    A trial's first attempt is timed from its start at step 0. A later attempt starts at a step
    that the snapshot does not hold, so it is timed from the first step observed here.
    """

    def __init__(self) -> None:
        self._observed: dict[int, _Observed] = {}

    def observe(self, rows: Iterable[TrialRow], now: float) -> None:
        """Note the steps of all running trials at the time `now`; forget all other trials."""
        fresh: dict[int, _Observed] = {}
        for row in rows:
            if row.state is not State.RUNNING or not row.step:
                continue
            old = self._observed.get(row.id)
            # A lower step than before: the attempt resumed from an earlier checkpoint.
            if old is None or old.started_utc != row.started_utc or row.step < old.newest[0]:
                began = row.started_utc if row.attempts == 1 else None
                first = (row.step, now) if began is None else (0, began)
                fresh[row.id] = _Observed(row.started_utc, first, (row.step, now))
            elif row.step > old.newest[0]:
                fresh[row.id] = _Observed(row.started_utc, old.first, (row.step, now))
            else:
                fresh[row.id] = old
        self._observed = fresh

    def left_s(self, row: TrialRow, now: float) -> float | None:
        """Return the seconds until the trial's last step; None while too little was observed."""
        observed = self._observed.get(row.id)
        if observed is None or not row.total_steps or observed.first is None:
            return None
        (first, began), (step, at) = observed.first, observed.newest
        if step <= first or at <= began:
            return None
        each = (at - began) / (step - first)
        # The time since the newest step has passed already, although no step shows it.
        return max(0.0, (row.total_steps - step) * each - (now - at))
