"""The search space of a sweep: which settings a point has, and all points of a grid.

A parameter with `when` exists only where the parameters it looks at have the values it names; where
it does not exist, a trial has the recipe's own value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from workbench.recipe.schema import Choice, Parameter, Range, Sweep

MOST_TRIALS = 10_000
"""Of one experiment: more is a slip of the pen, and would fill memory before anything ran."""


def values_of(parameter: Parameter) -> list[Any] | None:
    """What it may be; None for a range."""
    if isinstance(parameter, Range):
        return None
    return parameter.values if isinstance(parameter, Choice) else parameter


def condition_of(parameter: Parameter) -> dict[str, Any]:
    """When it exists: keys and the values they must have; always, where empty."""
    return {} if isinstance(parameter, list) else parameter.when


def exists(parameter: Parameter, point: Mapping[str, Any]) -> bool:
    """True where all it looks at stands in `point` and is as it wants."""
    wanted = condition_of(parameter)
    return all(key in point and meets(point[key], value) for key, value in wanted.items())


def meets(value: Any, wanted: Any) -> bool:
    """Equal, or one of the values listed."""
    return value == wanted or (isinstance(wanted, list) and value in wanted)


def in_order(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """As they were written, but each behind those its condition looks at.

    ValueError when conditions go in a circle.
    """
    ordered: dict[str, Parameter] = {}
    left = dict(parameters)
    while left:
        ready = next((key for key in left if not left.keys() & condition_of(left[key])), None)
        if ready is None:
            raise ValueError(f"the conditions of {' and '.join(left)} go in a circle")
        ordered[ready] = left.pop(ready)
    return ordered


def grid(parameters: Mapping[str, Parameter]) -> Iterator[dict[str, Any]]:
    """Every point of lists and choices, one at a time; the last parameter changes fastest."""
    ordered = list(in_order(parameters).items())

    def below(depth: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(ordered):
            yield point
            return
        key, parameter = ordered[depth]
        if not exists(parameter, point):
            yield from below(depth + 1, point)
            return
        for value in values_of(parameter) or []:
            yield from below(depth + 1, {**point, key: value})

    return below(0, {})


def grid_size(parameters: Mapping[str, Parameter]) -> int | None:
    """How many points there are, counted up to one more than MOST_TRIALS; None with a range."""
    values = [values_of(parameter) for parameter in parameters.values()]
    if any(one is None for one in values):
        return None
    if not any(condition_of(parameter) for parameter in parameters.values()):
        return min(math.prod(len(one or ()) for one in values), MOST_TRIALS + 1)
    return sum(1 for _ in itertools.islice(grid(parameters), MOST_TRIALS + 1))


def one_by_one(sweep: Sweep | None) -> bool:
    """True where trials are asked for as cards become free, because they
    depend on results, or nobody knows how many there will be."""
    return sweep is not None and (
        sweep.method == "tpe" or (sweep.method == "random" and sweep.trials is None)
    )


def trial_count(sweep: Sweep | None) -> int | None:
    """How many trials it has at most; None when only a budget or the space ends it."""
    if sweep is None:
        return 1
    size = grid_size(sweep.parameters)
    if sweep.method == "random" or size is None:  # random draws may repeat themselves
        return sweep.trials
    return min(size, sweep.trials or size)
