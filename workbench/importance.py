"""Estimate which settings mattered: the share of the differences between trials that each explains.

Each setting is judged on its own, by the share of the variance of the trials' ranks that lies
between its values, or between thirds of its range. Ranks are used and not scores, because a single
diverged trial would dominate the variance of scores. Trials that ended early rank behind those that
finished, by the step they reached. The share is corrected for chance (Hays' ω²), its interval is a
bootstrap over the trials, and a permutation test decides whether it is significant.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_TRIALS = 8
"""With fewer trials not even a setting that decides everything is significant."""
DRAWS = 400
"""Bootstrap samples, and permutations, for each setting."""
SURE = 0.05
"""Significance level of the permutation test."""
GROUPS = 3
"""Groups of equal size into which the trials of a range are divided, by value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedTrial:
    """A trial with its place in the ranking of its experiment; place 1 is the best."""

    settings: Mapping[str, object]
    """Swept settings by dotted key."""
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """The share of the variance of ranks that one setting explains, with its uncertainty."""

    key: str
    share: float
    """From 0 to 1. Shares of several settings may overlap, so they need not add up to 1."""
    low: float
    high: float
    """The central 90 % of the bootstrap's shares lie between `low` and `high`."""
    chance: float
    """P value of the permutation test: how often shuffled ranks give at least this share."""
    best: str
    """The value, or third of the range, with the best mean rank."""

    @property
    def sure(self) -> bool:
        """True if the share is statistically significant."""
        return self.chance <= SURE


def rank_settings(outcomes: Sequence[RankedTrial], seed: int = 0) -> list[Importance]:
    """Return the importance of every setting that differs between trials, largest share first.

    Empty if there are fewer than LEAST_TRIALS trials. Takes some tenths of a second at 100 trials.
    """
    if len(outcomes) < LEAST_TRIALS:
        return []
    keys = dict.fromkeys(key for one in outcomes for key in one.settings)
    dice = random.Random(seed)
    found = [_measure(key, outcomes, dice) for key in keys]
    return sorted((one for one in found if one is not None), key=lambda one: -one.share)


def _measure(key: str, outcomes: Sequence[RankedTrial], dice: random.Random) -> Importance | None:
    labels = _labels([one.settings.get(key) for one in outcomes])
    places = [float(one.place) for one in outcomes]
    if len(set(labels)) < 2:
        return None
    share = _share(labels, places)
    drawn = []
    for _ in range(DRAWS):
        picked = [dice.randrange(len(places)) for _ in places]
        drawn.append(_share([labels[n] for n in picked], [places[n] for n in picked]))
    drawn.sort()
    # The tolerance absorbs rounding: equal partitions must count as equally good.
    as_good = sum(
        _share(labels, dice.sample(places, len(places))) >= share - 1e-12 for _ in range(DRAWS)
    )
    return Importance(
        key=key,
        share=share,
        low=drawn[DRAWS // 20],
        high=drawn[-DRAWS // 20],
        # The observed order is one of the permutations, hence + 1; a p value is never 0.
        chance=(as_good + 1) / (DRAWS + 1),
        best=_best(labels, places),
    )


def _labels(values: Sequence[object]) -> list[str]:
    """Return the group of each value: the value itself, or its third if there are many numbers."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    # A few distinct numbers are levels of their own; only a real range needs thirds.
    if len(set(numbers)) <= 2 * GROUPS:
        return ["-" if value is None else json.dumps(value) for value in values]
    ordered = sorted(numbers)
    cuts = [ordered[len(ordered) * n // GROUPS] for n in range(1, GROUPS)]
    spans = [f"{low:g} to {high:g}" for low, high in _spans(ordered, cuts)]
    return [
        spans[sum(value >= cut for cut in cuts)]
        if isinstance(value, int | float) and not isinstance(value, bool)
        else "-"
        for value in values
    ]


def _spans(ordered: Sequence[float], cuts: Sequence[float]) -> list[tuple[float, float]]:
    parts: list[list[float]] = [[] for _ in range(len(cuts) + 1)]
    for value in ordered:
        parts[sum(value >= cut for cut in cuts)].append(value)
    return [(part[0], part[-1]) if part else (0.0, 0.0) for part in parts]


def _share(labels: Sequence[str], places: Sequence[float]) -> float:
    """Return ω² of a one-way analysis of variance, at least 0.

    ω² subtracts the variance that k groups explain by chance (Hays, Statistics, 1963).
    """
    groups: dict[str, list[float]] = {}
    for label, place in zip(labels, places, strict=True):
        groups.setdefault(label, []).append(place)
    n, k = len(places), len(groups)
    mean = sum(places) / n
    total = sum((place - mean) ** 2 for place in places)
    if k < 2 or n <= k or total == 0:
        return 0.0
    between = sum(len(g) * (sum(g) / len(g) - mean) ** 2 for g in groups.values())
    noise = (total - between) / (n - k)
    return max(0.0, (between - (k - 1) * noise) / (total + noise))


def _best(labels: Sequence[str], places: Sequence[float]) -> str:
    groups: dict[str, list[float]] = {}
    for label, place in zip(labels, places, strict=True):
        groups.setdefault(label, []).append(place)
    return min(groups, key=lambda label: sum(groups[label]) / len(groups[label]))
