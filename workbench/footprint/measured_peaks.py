"""Corrects predictions by the peaks that finished attempts measured.

Each class of plans on each kind of hardware has a factor: the median ratio of measured to predicted
bytes over its newest attempts. One odd run among them moves the median little, and nothing is
corrected before there are three.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from workbench.footprint.oom_fallback import Key
from workbench.footprint.plan import Plan, uncorrected_bytes

NEWEST, LEAST = 9, 3
"""Attempts of a class that count, and how many it takes before anything is corrected."""
FLOOR, CEILING = 0.98, 1.5
"""Bounds of a factor. Short rows measure little and promise nothing, so that a prediction is
lowered by 2 % at most; one that would rise by more than half points to another fault."""
HELD = ("recompute", "long_recompute", "resident")
"""Stored names, without `_layers`, of how layers are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One finished attempt."""

    key: Key
    """`class_key` of its plan."""
    predicted_bytes: int
    """Before any correction."""
    peak_bytes: int


def class_key(hardware: Key, config: Mapping[str, Any], plan: Mapping[str, Any]) -> Key:
    """Return the key of the class of plans that share a factor.

    A class is a kind of hardware, a model's shape, precision, optimizer, and whether none, some or
    all layers recompute (in longer rows, too) or are dequantised. `plan` is a stored plan.
    """
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, Mapping) else config
    model = tuple(flat.get(name) for name in ("model_type", "hidden_size", "num_hidden_layers"))
    layers = plan.get("layers")
    held = tuple(_share(plan.get(f"{name}_layers"), layers) for name in HELD)
    return (*hardware, *model, plan.get("precision"), plan.get("optimizer"), *held)


def correction_factors(newest_first: Iterable[Measured]) -> dict[Key, float]:
    """Return the factor of each class with three attempts or more, up to a whole percent."""
    ratios: dict[Key, list[float]] = {}
    for one in newest_first:
        known = ratios.setdefault(one.key, [])
        if len(known) < NEWEST and one.predicted_bytes > 0:
            known.append(one.peak_bytes / one.predicted_bytes)
    return {key: _factor(known) for key, known in ratios.items() if len(known) >= LEAST}


def learn_factors(
    measured: Iterable[tuple[str, Mapping[str, Any], int, Mapping[str, Any]]],
    hardware: Mapping[str, Key],
) -> dict[Key, float]:
    """Return the factors of stored attempts.

    `measured` has (card's uuid, stored plan, peak bytes, the model's config), newest first;
    `hardware` has the hardware key by uuid. Attempts on cards that it lacks are left out.
    """
    return correction_factors(
        Measured(
            key=class_key(hardware[uuid], config, plan),
            predicted_bytes=uncorrected_bytes(plan),
            peak_bytes=peak,
        )
        for uuid, plan, peak, config in measured
        if uuid in hardware
    )


def corrected_plan(
    plan: Plan, factors: Mapping[Key, float], hardware: Key, config: Mapping[str, Any]
) -> Plan:
    """Return `plan` with the peak to be expected on that hardware; the buckets stay predictions."""
    stored = plan.to_json()
    factor = factors.get(class_key(hardware, config, stored), 1.0)
    return replace(plan, predicted_bytes=int(uncorrected_bytes(stored) * factor))


def factors_to_json(factors: Mapping[Key, float]) -> list[Any]:
    """Return factors as JSON-ready values, for a process that cannot read the store."""
    return [[list(key), factor] for key, factor in factors.items()]


def factors_from_json(data: Iterable[Any]) -> dict[Key, float]:
    """Return the factors that `factors_to_json` wrote."""
    return {tuple(key): float(factor) for key, factor in data}


def _factor(ratios: list[float]) -> float:
    # The inner rounding keeps 1.05 from becoming 1.06 by the last bit of a division.
    whole = math.ceil(round(median(ratios) * 100, 6)) / 100
    return min(max(whole, FLOOR), CEILING)


def _share(count: object, layers: object) -> str:
    if not isinstance(count, int) or not isinstance(layers, int) or count == 0:
        return "none"
    return "all" if count >= layers else "some"
