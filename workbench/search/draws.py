"""Draw points of the search space at random, each trial with a generator of its own."""

from __future__ import annotations

import math
import random
from typing import Any

from workbench.recipe.schema import Parameter, Range, Sweep
from workbench.recipe.space import in_condition_order, parameter_exists, values_of


def draw_point(sweep: Sweep, number: int, again: int = 0) -> dict[str, Any]:
    """Draw the point of trial `number`.

    The result depends on the sweep's seed, `number` and `again` (the attempt) only, so that trials
    can be drawn in any order and after a restart.
    """
    # A text seed is hashed with SHA-512, so neighbouring trials get unrelated streams.
    dice = random.Random(f"{sweep.seed}:{number}" + (f":{again}" if again else ""))
    point: dict[str, Any] = {}
    for key, parameter in in_condition_order(sweep.parameters).items():
        if parameter_exists(parameter, point):
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
    return round_into_range(span, value)


def round_into_range(span: Range, value: float) -> float | int:
    """Round a drawn number: to a whole number for an integer range, else to four digits.

    The result stays inside the range.
    """
    if span.integer:
        return min(math.floor(span.max), max(math.ceil(span.min), round(value)))
    return min(span.max, max(span.min, float(f"{value:.4g}")))
