"""What finished attempts measured, against what was predicted: corrects the next prediction.

For each kind of card and class of plan, the median ratio of the newest attempts: one odd run among
them moves it little, and none moves it before there are three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.oom_fallback import raw_bytes
from workbench.footprint.plan import Plan

NEWEST, LEAST = 9, 3
"""Attempts that are looked at, and without how many nothing is corrected."""
FLOOR, CEILING = 0.98, 1.5
"""A prediction is lowered by 2 % at most: short rows measure little and promise nothing. One that
is raised by half says that something else is wrong."""
HELD = ("recompute", "long_recompute", "resident")
Key = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One finished attempt."""

    key: Key
    predicted_bytes: int
    """Before any correction."""
    peak_bytes: int


def key_of(card: Key, config: Mapping[str, Any], plan: Mapping[str, Any]) -> Key:
    """What has one ratio: a kind of card, a model's shape, and how layers are held."""
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, Mapping) else config
    model = tuple(flat.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers"))
    layers = plan.get("layers")
    held = tuple(_share(plan.get(f"{name}_layers"), layers) for name in HELD)
    return (*card, *model, plan.get("precision"), plan.get("optimizer"), *held)


def factors(newest_first: Iterable[Measured]) -> dict[Key, float]:
    """By key, what to multiply a prediction with; rounded up to whole percents."""
    ratios: dict[Key, list[float]] = {}
    for one in newest_first:
        known = ratios.setdefault(one.key, [])
        if len(known) < NEWEST and one.predicted_bytes > 0:
            known.append(one.peak_bytes / one.predicted_bytes)
    return {key: _factor(known) for key, known in ratios.items() if len(known) >= LEAST}


def learned(
    measured: Iterable[tuple[str, Mapping[str, Any], int, Mapping[str, Any]]],
    kinds: Mapping[str, Key],
) -> dict[Key, float]:
    """The same from (card, plan, peak bytes, the model's config), newest first, on `kinds` of cards
    by their uuid."""
    return factors(
        Measured(
            key=key_of(kinds[card], config, plan), predicted_bytes=raw_bytes(plan), peak_bytes=peak
        )
        for card, plan, peak, config in measured
        if card in kinds
    )


def factor_of(
    found: Mapping[Key, float], kind: Key, config: Mapping[str, Any]
) -> Callable[[Plan], float]:
    """What a plan's bytes are multiplied by on that kind of card; 1 where nothing was learned."""
    return lambda plan: found.get(key_of(kind, config, plan.to_json()), 1.0)


def fitted(
    make: Callable[[int | None], Plan],
    factor: Callable[[Plan], float],
    room: int | None,
    limit: int,
) -> Plan:
    """The plan that `make` gives for so much room that it keeps within `limit` after its
    correction, too."""
    tighter = 1.0
    plan = corrected(make(room), factor)
    while plan.predicted_bytes > limit:
        tighter = max(tighter * 1.001, plan.predicted_bytes / raw_bytes(plan.to_json()))
        try:
            plan = corrected(make(int(limit / tighter)), factor)
        except DoesNotFit as refused:
            more = f"; by what was measured here, it takes {tighter - 1:.0%} more than that"
            raise DoesNotFit(refused.what + more, hint=refused.hint) from None
    return plan


def corrected(plan: Plan, factor: Callable[[Plan], float]) -> Plan:
    """With the peak that is to be expected."""
    return replace(plan, predicted_bytes=int(raw_bytes(plan.to_json()) * factor(plan)))


def _factor(ratios: list[float]) -> float:
    whole = math.ceil(round(median(ratios) * 100, 6)) / 100
    return min(max(whole, FLOOR), CEILING)


def _share(count: object, layers: object) -> str:
    if not isinstance(count, int) or not isinstance(layers, int) or count == 0:
        return "none"
    return "all" if count >= layers else "some"
