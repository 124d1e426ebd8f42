"""When a trial is not worth its card any more: pure functions of held-out losses, down is better.

A curve is (step, loss) at each evaluation, oldest first; a loss that is no number is None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

Curve = Sequence[tuple[int, float | None]]


def reached(curve: Curve, first: int, reduction: int) -> Iterator[tuple[int, float | None]]:
    """(step, loss) at each rung the curve has come to: its first value at or behind the rung.

    Rungs are at first, first × reduction, first × reduction², … optimizer steps.
    """
    rung = first
    for step, value in curve:
        while step >= rung:
            yield step, value
            rung *= reduction


def goes_on(value: float | None, at_rung: Sequence[float | None], reduction: int) -> bool:
    """Asynchronous successive halving: is it among the best 1/reduction at this rung so far?

    Li et al. 2018 (arXiv 1810.05934), algorithm 2, promotes the top ⌊n/η⌋ of n that reached a rung
    and lets the rest wait there. Here none waits: who is not among them when it arrives ends, and
    of the first η − 1 to arrive the best goes on, as in Optuna's SuccessiveHalvingPruner. `at_rung`
    has this trial's own value in it.
    """
    if value is None:
        return False
    ranked = sorted(math.inf if one is None else one for one in at_rung)
    return value <= ranked[max(0, len(ranked) // reduction - 1)]


def behind_the_median(curve: Curve, finished: Sequence[float], least: int) -> bool:
    """True when its best so far is worse than half of the finished trials were at this step.

    The median stopping rule (Golovin et al. 2017, Google Vizier, §3.2.2), on the values themselves
    as in Optuna's MedianPruner. Never before `least` have finished.
    """
    if len(finished) < least:
        return False
    best = min((value for _, value in curve if value is not None), default=math.inf)
    return best > statistics.median(finished)


def out_of_patience(curve: Curve, evaluations: int, improvement: float) -> bool:
    """True when so many evaluations in a row were not lower than the best before, by that much."""
    best, idle = math.inf, 0
    for _, value in curve:
        better = value is not None and (best == math.inf or value < best - improvement)
        idle = 0 if better else idle + 1
        best = value if better and value is not None else best
    return idle >= evaluations
