"""Which point of the search space to try: pure functions of the sweep and its history."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

from workbench.errors import UsageError
from workbench.recipe import Recipe
from workbench.recipe.schema import Range, Sweep

MOST_TRIALS = 10_000
"""Of one experiment: more is a slip of the pen, and would fill memory before anything ran."""


def points(recipe: Recipe) -> list[dict[str, Any]]:
    """The settings of every trial, in order; one trial without settings when nothing is swept.

    Grid and random do not look at results, so their trials can all stand in the queue at once.
    UsageError when there are more than MOST_TRIALS.
    """
    sweep = recipe.sweep
    if sweep is None:
        return [{}]
    if sweep.method == "grid":
        lists = [values for values in sweep.parameters.values() if isinstance(values, list)]
        _within_reason(min(sweep.trials or math.inf, math.prod(len(one) for one in lists)))
        return list(itertools.islice(_grid(sweep), sweep.trials))
    _within_reason(sweep.trials or 0)
    return [_draw(sweep, number) for number in range(1, (sweep.trials or 0) + 1)]


def _within_reason(trials: float) -> None:
    if trials > MOST_TRIALS:
        raise UsageError(
            f"the sweep has {trials:.6g} trials; one experiment takes {MOST_TRIALS:,} at most",
            mend="set sweep.trials, or try fewer values",
        )


def _grid(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Every combination; the last parameter changes fastest."""
    lists = [values for values in sweep.parameters.values() if isinstance(values, list)]
    return (dict(zip(sweep.parameters, row, strict=True)) for row in itertools.product(*lists))


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
