"""Which settings mattered: how much of the differences between trials each one explains.

One setting at a time: the share of the variance of the trials' ranks that lies between its values
(or thirds of its range). Ranks, because a single diverged trial would drown all else in scores;
trials that ended early rank behind those that finished, by how far they came. The share is
corrected for what chance alone would explain (Hays' ω²), its interval is a bootstrap over the
trials, and a setting counts as told only when shuffled ranks hardly ever do as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_TRIALS = 8
"""With fewer, even a setting that decides everything is not told from chance."""
DRAWS = 400
SURE = 0.05
GROUPS = 3
"""Parts into which the values of a range are put, as many trials in each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One trial, as far as it tells: `place` 1 is the best."""

    settings: Mapping[str, object]
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    key: str
    share: float
    """Of the variance of ranks, from 0 to 1; what settings share, several may count."""
    low: float
    high: float
    """90 % of the bootstrap's shares lie between."""
    chance: float
    """How often shuffled ranks give it as much; above 0.05 it is not told from chance."""
    best: str
    """The value, or part of the range, whose trials did best."""

    @property
    def sure(self) -> bool:
        """It is told from chance."""
        return self.chance <= SURE


def importance(outcomes: Sequence[Outcome], seed: int = 0) -> list[Importance]:
    """The most telling first; empty when there are too few trials, or none differ."""
    if len(outcomes) < LEAST_TRIALS:
        return []
    keys = dict.fromkeys(key for one in outcomes for key in one.settings)
    dice = random.Random(seed)
    found = [_of(key, outcomes, dice) for key in keys]
    return sorted((one for one in found if one is not None), key=lambda one: -one.share)


def _of(key: str, outcomes: Sequence[Outcome], dice: random.Random) -> Importance | None:
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
    as_good = sum(
        _share(labels, dice.sample(places, len(places))) >= share - 1e-12 for _ in range(DRAWS)
    )
    return Importance(
        key=key,
        share=share,
        low=drawn[DRAWS // 20],
        high=drawn[-DRAWS // 20],
        chance=(as_good + 1) / (DRAWS + 1),
        best=_best(labels, places),
    )


def _labels(values: Sequence[object]) -> list[str]:
    """The group each value belongs to: itself, or its part of a range with many values."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
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
    """ω² of one-way groups, never below 0."""
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
