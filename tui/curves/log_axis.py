"""The logarithmic axis: points as powers of ten, and ticks at 1, 2 and 5 times each power."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workbench.service import Point

_NICE = ((1, 2, 5), (1, 3), (1,))
"""Multiples of each power of ten, from many ticks to few."""


def to_powers(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the decimal logarithms of the points; those that are not above 0 are left out."""
    return tuple(
        Point(step=point.step, low=math.log10(point.low), high=math.log10(point.high))
        for point in points
        if point.low > 0
    )


def power_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` ticks in [low, high], as powers of ten of round values.

    The list is empty where no round value lies in a range that is shorter than a factor of 2.
    """
    for nice in _NICE:
        powers = range(math.floor(low), math.ceil(high) + 1)
        ticks = [power + math.log10(n) for power in powers for n in nice]
        found = [tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]
        if len(found) <= most:
            return found
    every = math.ceil(len(found) / max(1, most))
    return found[::every]


def power_label(tick: float) -> str:
    """Return the label of a tick: `0.02`, `5`, `2k`, and `2e-5` for what is very small."""
    value = 10**tick
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g}{unit}"
    return f"{value:.0e}".replace("e-0", "e-") if value < 1e-3 else f"{value:.3g}"
