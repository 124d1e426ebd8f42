"""Points drawn at random: each trial's own, whatever was drawn before it."""

from __future__ import annotations

import math
import random
from typing import Any

from workbench.recipe.schema import Parameter, Range, Sweep
from workbench.recipe.space import exists, in_order, values_of


def draw(sweep: Sweep, number: int, again: int = 0) -> dict[str, Any]:
    """Trial `number`'s point: the same for the same seed, whatever was drawn before."""
    dice = random.Random(f"{sweep.seed}:{number}" + (f":{again}" if again else ""))
    point: dict[str, Any] = {}
    for key, parameter in in_order(sweep.parameters).items():
        if exists(parameter, point):
            point[key] = _drawn(parameter, dice)
    return point


def _drawn(parameter: Parameter, dice: random.Random) -> Any:
    if isinstance(parameter, Range):
        return _within(parameter, dice)
    return dice.choice(values_of(parameter) or [None])


def _within(span: Range, dice: random.Random) -> float | int:
    if span.log:
        value = math.exp(dice.uniform(math.log(span.min), math.log(span.max)))
    else:
        value = dice.uniform(span.min, span.max)
    return tidy(span, value)


def tidy(span: Range, value: float) -> float | int:
    """Whole where it must be, else of four digits; never outside its range."""
    if span.integer:
        return min(math.floor(span.max), max(math.ceil(span.min), round(value)))
    return min(span.max, max(span.min, float(f"{value:.4g}")))
