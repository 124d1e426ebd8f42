"""Early-stopping rules, as pure functions of held-out losses; lower is better.

A curve is a sequence of (step, loss) at each evaluation, oldest first. A loss that is not finite is
None and counts as worse than every number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

Curve = Sequence[tuple[int, float | None]]


def rungs_reached(curve: Curve, first: int, reduction: int) -> Iterator[tuple[int, float | None]]:
    """Generate (step, loss) for each rung that the curve has reached.

    Rungs are at first, first × reduction, first × reduction², … optimizer steps. The value of a
    rung is the first one at or after it.
    """
    rung = first
    for step, value in curve:
        # One evaluation may pass several rungs at once and then counts at each of them.
        while step >= rung:
            yield step, value
            rung *= reduction


def survives_rung(value: float | None, at_rung: Sequence[float | None], reduction: int) -> bool:
    """Return True if a trial is among the best 1/reduction of those that reached the rung so far.

    This is asynchronous successive halving. Li et al. 2018 (arXiv 1810.05934), algorithm 2,
    promotes the top ⌊n/η⌋ of the n trials that reached a rung, and lets the others wait there. Here
    no trial waits: one that is not among the best when it arrives ends, and of the first η − 1
    arrivals the best continues, as in Optuna's SuccessiveHalvingPruner. `at_rung` includes this
    trial's own value.
    """
    if value is None:
        return False
    # A trial without a finite loss ranks last and still counts as arrived.
    ranked = sorted(math.inf if one is None else one for one in at_rung)
    return value <= ranked[max(0, len(ranked) // reduction - 1)]


def is_behind_median(curve: Curve, finished: Sequence[float], least: int) -> bool:
    """Return True if the best loss of the curve is above the median of the finished trials.

    `finished` holds the losses of finished trials at the curve's last step. This is the median
    stopping rule (Golovin et al. 2017, Google Vizier, §3.2.2), on values and not on running means,
    as in Optuna's MedianPruner. Always False until `least` trials have finished.
    """
    if len(finished) < least:
        return False
    best = min((value for _, value in curve if value is not None), default=math.inf)
    return best > statistics.median(finished)


def is_out_of_patience(curve: Curve, evaluations: int, improvement: float) -> bool:
    """Return True if the last `evaluations` losses did not improve on the best before them.

    A loss improves if it is lower than the best so far by more than `improvement` nats.
    """
    best, idle = math.inf, 0
    for _, value in curve:
        # The first finite loss always improves on the initial infinity, whatever `improvement` is.
        better = value is not None and (best == math.inf or value < best - improvement)
        idle = 0 if better else idle + 1
        best = value if better and value is not None else best
    return idle >= evaluations
