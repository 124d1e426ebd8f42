"""Which point of the search space to try: pure functions of the sweep and its history."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

from workbench.recipe import Recipe
from workbench.recipe.schema import Range, Sweep


def points(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of every trial, in order; one trial without settings when nothing is swept.

    Grid and random do not look at results, so their trials can all stand in the queue at once.
    """
    sweep = recipe.sweep
    if sweep is None:
        return [{}]
    if sweep.method == "grid":
        return _grid(sweep)[: sweep.trials]
    return [_draw(sweep, number) for number in range(1, (sweep.trials or 0) + 1)]


def _grid(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination; the last parameter changes fastest."""
    lists = [values for values in sweep.parameters.values() if isinstance(values, list)]
    return [dict(zip(sweep.parameters, row, strict=True)) for row in itertools.product(*lists)]


def _draw(sweep: Sweep, number: int) -> dict[str, Any]:
    """Trial `number`'s point: the same for the same seed, whatever was drawn before."""
    dice = random.Random(f"{sweep.seed}:{number}")
    return {
        key: dice.choice(values) if isinstance(values, list) else _within(values, dice)
        for key, values in sweep.parameters.items()
    }


def _within(span: Range, dice: random.Random) -> float | int:
    if span.log:
        value = math.exp(dice.uniform(math.log(span.min), math.log(span.max)))
    else:
        value = dice.uniform(span.min, span.max)
    if span.integer:
        return min(math.floor(span.max), max(math.ceil(span.min), round(value)))
    return float(f"{value:.4g}")
