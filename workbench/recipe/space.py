"""The search space of a sweep: the settings of a point, and all points of a grid.

A parameter with `when` exists only if the parameters named there have the values named there. A
trial without that parameter has the recipe's own value.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from workbench.recipe import keys
from workbench.recipe.schema import Choice, Parameter, Range, Section, Sweep

MAX_TRIALS = 10_000
"""Most trials of one experiment. A larger grid is a mistake, and would fill memory first."""


def values_of(parameter: Parameter) -> list[Any] | None:
    """Return the values of a list or a choice, or None for a range."""
    if isinstance(parameter, Range):
        return None
    return parameter.values if isinstance(parameter, Choice) else parameter


def repeated_values(key: str, values: Mapping[int, Any]) -> list[int]:
    """Return the indices of values that equal an earlier one, as the setting `key` takes them.

    `1` and `1.0` are equal for a setting that takes fractions. Values that the setting refuses
    equal none.
    """
    adapter = _adapter_of(key)
    seen: set[tuple[type, Any]] = set()
    repeated: list[int] = []
    for index, value in values.items():
        try:
            taken = adapter.validate_python(value)
        except ValidationError:
            continue
        if isinstance(taken, list | dict):
            plain: Any = json.dumps(adapter.dump_python(taken, mode="json"), sort_keys=True)
        else:
            plain = taken
        if (type(taken), plain) in seen:
            repeated.append(index)
        seen.add((type(taken), plain))
    return repeated


@cache
def _adapter_of(key: str) -> TypeAdapter[Any]:
    """Return the validator of one setting, as strict as that of its section."""
    info = keys.setting_fields()[key]
    kind: Any = Annotated[info.annotation, info]
    return TypeAdapter(kind, config=Section.model_config)


def condition_of(parameter: Parameter) -> dict[str, Any]:
    """Return the condition of a parameter: keys and required values, empty if it always exists."""
    return {} if isinstance(parameter, list) else parameter.when


def parameter_exists(parameter: Parameter, point: Mapping[str, Any]) -> bool:
    """Return True if `point` has every key of the parameter's condition with a required value.

    `point` must already have the parameters named in the condition; see `in_condition_order`.
    """
    wanted = condition_of(parameter)
    return all(key in point and meets_condition(point[key], value) for key, value in wanted.items())


def meets_condition(value: Any, wanted: Any) -> bool:
    """Return True if `value` equals `wanted`, or is an element of a list `wanted`."""
    return value == wanted or (isinstance(wanted, list) and value in wanted)


def in_condition_order(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Sort parameters so that each follows those named in its condition; else keep their order.

    Raises ValueError if conditions depend on each other in a circle.
    """
    ordered: dict[str, Parameter] = {}
    left = dict(parameters)
    while left:
        # A condition may name only keys that are already placed.
        ready = next((key for key in left if not left.keys() & condition_of(left[key])), None)
        if ready is None:
            raise ValueError(f"the conditions of {' and '.join(left)} depend on each other")
        ordered[ready] = left.pop(ready)
    return ordered


def countable_values(parameter: Parameter) -> Sequence[Any] | None:
    """Return the values of a list, a choice or a range of whole numbers; None for other ranges."""
    if isinstance(parameter, Range):
        whole = range(math.ceil(parameter.min), math.floor(parameter.max) + 1)
        return whole if parameter.integer else None
    return values_of(parameter)


def grid_points(parameters: Mapping[str, Parameter]) -> Iterator[dict[str, Any]]:
    """Generate every point of lists, choices and ranges of whole numbers.

    The last parameter changes fastest. Lazy, so that the first points of a huge grid cost nothing.
    """
    ordered = list(in_condition_order(parameters).items())

    def below(depth: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(ordered):
            yield point
            return
        key, parameter = ordered[depth]
        if not parameter_exists(parameter, point):
            yield from below(depth + 1, point)
            return
        for value in countable_values(parameter) or []:
            yield from below(depth + 1, {**point, key: value})

    return below(0, {})


def grid_size(parameters: Mapping[str, Parameter]) -> int | None:
    """Return the number of points, counted up to MAX_TRIALS + 1.

    None if a parameter is a range of numbers that need not be whole.
    """
    values = [countable_values(parameter) for parameter in parameters.values()]
    if any(one is None for one in values):
        return None
    if not any(condition_of(parameter) for parameter in parameters.values()):
        return min(math.prod(len(one or ()) for one in values), MAX_TRIALS + 1)
    return sum(1 for _ in itertools.islice(grid_points(parameters), MAX_TRIALS + 1))


def is_one_by_one(sweep: Sweep | None) -> bool:
    """Return True if trials are proposed one at a time, as cards become free.

    This holds if points depend on results (tpe), or if only a budget ends the sweep.
    """
    return sweep is not None and (
        sweep.method == "tpe" or (sweep.method == "random" and sweep.trials is None)
    )


def finals_count(sweep: Sweep | None) -> int:
    """Return the trials that the finals of a sweep add to it, 0 without finals."""
    if sweep is None or sweep.finals is None:
        return 0
    swept = trial_count(sweep)
    top = sweep.finals.top if swept is None else min(sweep.finals.top, swept)
    return top * sweep.finals.seeds


def trial_count(sweep: Sweep | None) -> int | None:
    """Return the most trials that a sweep can have, 1 without a sweep.

    None if only a budget or the exhausted search space ends it.
    """
    if sweep is None:
        return 1
    size = grid_size(sweep.parameters)
    return sweep.trials if size is None else min(size, sweep.trials or size)
