"""Power: the smallest difference that held-out rows can show, and how many rows show half of it.

A difference counts as shown when a two-sided test at 5 % finds it in 80 % of repetitions, on the
same rows for both adapters.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

ALPHA, POWER = 0.05, 0.80
_Z_ALPHA, _Z_POWER = float(ndtri(1 - ALPHA / 2)), float(ndtri(POWER))
HALF_COSTS = 4
"""Times as many rows show half the difference: standard errors fall with the root of the rows."""


def smallest_share_difference(rows: int, discordance: float) -> float | None:
    """Return the smallest difference of two shares of right answers that `rows` rows can show.

    `discordance` is the share of rows on which exactly one of the two is right. None where not even
    the largest possible difference, the discordance itself, would be shown. Connor 1987, Biometrics
    43:207, for the McNemar test.
    """

    def needed(difference: float) -> float:
        spread = math.sqrt(max(discordance - difference**2, 0.0))
        return ((_Z_ALPHA * math.sqrt(discordance) + _Z_POWER * spread) / difference) ** 2

    if discordance <= 0 or needed(discordance) > rows:
        return None
    low, high = 0.0, discordance  # rows that are needed fall as the difference grows
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle) <= rows else (middle, high)
    return high


def smallest_mean_difference(rows: int, spread: float) -> float:
    """Return the smallest difference of two mean losses that `rows` rows can show.

    `spread` is the standard deviation of the paired difference from row to row; the result is in
    its unit.
    """
    return (_Z_ALPHA + _Z_POWER) * spread / math.sqrt(rows)
