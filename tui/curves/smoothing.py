"""The exponential moving average of a curve, as TensorBoard draws it."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.service import Point

WEIGHTS = (0.0, 0.6, 0.9)
"""The weights of the average so far that a key turns through; 0 leaves the curve as it is."""


def smooth_points(points: Sequence[Point], weight: float) -> tuple[Point, ...]:
    """Return the exponential moving average of the points' middles, with `weight` from 0 to 1.

    The average is divided by 1 - weight^n, so that the first points are not drawn towards 0
    (the correction of Adam: Kingma and Ba 2015, arXiv 1412.6980, §3).
    """
    average, correction = 0.0, 1.0
    out = []
    for point in points:
        average = weight * average + (1 - weight) * (point.low + point.high) / 2
        correction *= weight
        value = average / (1 - correction)
        out.append(Point(step=point.step, low=value, high=value))
    return tuple(out)
