"""Plain values to a Recipe, or every mistake in words a person understands."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from workbench.recipe import keys
from workbench.recipe.schema import Recipe
from workbench.recipe.source import KeyPath, Source, dotted
from workbench.recipe.space import condition_of, in_order, meets, values_of
from workbench.text import safe_line
from workbench.trial import up_is_better

NOT_SWEPT = ("name", "sweep", "model.name", "model.revision", "data.eval", "evaluate")
"""Trials that differ in one of these cannot be compared; `data.eval` stands for `data.eval_*`."""

_NO_SWEEP = "cannot be swept: its trials could not be compared"


def validate(source: Source) -> Recipe | None:
    """The recipe, or None with the mistakes noted in `source`."""
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as wrong:
        for path, what in _mistakes(wrong, source.data):
            source.wrong(path, what)
    _check_sweep(source)
    if recipe is not None:
        _check_scores(source, recipe)
        _check_conditions(source, recipe)
    return recipe


def problems(data: dict[str, Any]) -> list[tuple[KeyPath, str]]:
    """The mistakes of plain values, each with its path; none when they are a recipe."""
    try:
        Recipe.model_validate(data)
    except ValidationError as wrong:
        return list(_mistakes(wrong, data))
    return []


def put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of `data` with one value changed; sections on the way are made."""
    changed = dict(data)
    if len(path) == 1:
        changed[path[0]] = value
    else:
        inner = changed.get(path[0])
        changed[path[0]] = put(inner if isinstance(inner, dict) else {}, path[1:], value)
    return changed


def _mistakes(wrong: ValidationError, data: Any) -> Iterator[tuple[KeyPath, str]]:
    """One mistake per path; of a union's errors those of the branch the value looks like."""
    told: dict[KeyPath, str] = {}
    for error in wrong.errors(include_url=False):
        path, value = _follow(error, data)
        kind = error["type"]
        if kind == "list_type" and isinstance(value, dict):
            continue
        if kind in ("model_type", "dict_type", "literal_error") and isinstance(value, list):
            continue
        if path not in told:
            told[path] = _words(error, path, value)
    if not told:  # every branch was set aside: say at least where
        told = {(): "is not a recipe"}
    yield from told.items()


def _follow(error: ErrorDetails, data: Any) -> tuple[KeyPath, Any]:
    """Pydantic's location without its names of union branches, and the value there."""
    path: KeyPath = ()
    value: Any = data
    loc = error["loc"]
    for index, part in enumerate(loc):
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            path, value = (*path, part), value[part]  # type: ignore[index]
        elif error["type"] == "missing" and index == len(loc) - 1:
            path, value = (*path, part), None
    return path, value


_BOUNDS = {
    "greater_than": ("must be above", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be below", "lt"),
    "less_than_equal": ("must be at most", "le"),
}


def _words(error: ErrorDetails, path: KeyPath, value: Any) -> str:
    key = ".".join(str(part) for part in path)
    name = dotted(path)
    kind = error["type"]
    if kind == "extra_forbidden":
        return keys.unknown(key, name)
    if kind == "missing":
        return f"{name} is missing"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{name} {words} {error.get('ctx', {})[bound]:g}, not {_shown(value)}"
    if kind == "finite_number":
        return f"{name} must be a finite number, not {_shown(value)}"
    if kind == "string_too_short":
        return f"{name} is empty"
    if kind == "string_too_long":
        return (
            f"{name} has {len(str(value))} characters, at most {error.get('ctx', {})['max_length']}"
        )
    if kind == "too_short":
        return f"{name} is empty"
    if kind == "value_error":
        said = safe_line(error.get("ctx", {}).get("error", error["msg"]), 200)
        return f"{name} {said}" if key in keys.leaves() else f"{name}: {said}"
    item = isinstance(path[-1], int) if path else False
    wants = "text" if item else keys.wanted(key)
    return f"{name} wants {wants}, not {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{safe_line(value, 40)}'"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    return safe_line(value, 40)


def _check_sweep(source: Source) -> None:
    """Every swept key must be a setting, and every value one that it takes."""
    sweep = source.data.get("sweep") if isinstance(source.data, dict) else None
    parameters = sweep.get("parameters") if isinstance(sweep, dict) else None
    if not isinstance(parameters, dict):
        return
    plain = copy.copy(source.data)
    plain["sweep"] = None
    before = {path for path, _ in problems(plain)}
    for key, values in parameters.items():
        path = ("sweep", "parameters", key)
        if refused := not_swept(key, source.data):
            source.wrong(path, refused)
        elif isinstance(values, dict) and "values" not in values:
            _check_range(source, plain, before, key, values, path)
        else:
            at: KeyPath = (*path, "values") if isinstance(values, dict) else path
            listed = values["values"] if isinstance(values, dict) else values
            for index, value in enumerate(listed if isinstance(listed, list) else ()):
                _check_value(source, plain, before, key, value, (*at, index))


def _check_conditions(source: Source, recipe: Recipe) -> None:
    """Every `when` must look at a swept list, and hold for one of its values."""
    parameters = recipe.sweep.parameters if recipe.sweep is not None else {}
    for key, parameter in parameters.items():
        for other, wanted in condition_of(parameter).items():
            path = ("sweep", "parameters", key, "when", other)
            values = values_of(parameters[other]) if other in parameters else []
            if other not in parameters:
                shown = safe_line(other, 80)
                source.wrong(path, f"{key} exists when {shown} has a value, which is not swept")
            elif values is None:
                source.wrong(path, f"{key} looks at {other}, which is a range; list its values")
            elif not any(meets(value, wanted) for value in values):
                source.wrong(path, f"{key} never exists: {other} is never {_shown(wanted)}")
    try:
        in_order(parameters)
    except ValueError as circle:
        source.wrong(("sweep", "parameters"), safe_line(circle, 200))


def _check_scores(source: Source, recipe: Recipe) -> None:
    """A search can go by nothing that its trials do not leave."""
    sweep = recipe.sweep
    if sweep is None:
        return
    if sweep.objective == "exact_match" and recipe.evaluate.answer_pattern is None:
        what = "sweep.objective: exact_match needs evaluate.answer_pattern"
        source.wrong(("sweep", "objective"), what)
    if sweep.objective == "eval_loss" and recipe.evaluate.every is None:
        source.wrong(("sweep", "objective"), f"sweep.objective: eval_loss {_NO_CURVE}")
    name = recipe.objective[0]
    if sweep.direction == ("minimize" if up_is_better(name) else "maximize"):
        way = "higher" if up_is_better(name) else "lower"
        what = f"sweep.direction: {name} is better when it is {way}; leave the direction out"
        source.wrong(("sweep", "direction"), what)
    if sweep.early_stop is not None:
        if recipe.evaluate.every is None:
            source.wrong(("sweep", "early_stop"), f"sweep.early_stop {_NO_CURVE}")
        elif recipe.train.max_steps and (why := no_curve(recipe, recipe.train.max_steps)):
            source.wrong(("sweep", "early_stop"), f"sweep.early_stop: {why}")


_NO_CURVE = "needs a curve of held-out losses; set evaluate.every to some optimizer steps, e.g. 25"


def no_curve(recipe: Recipe, steps: int) -> str:
    """Why trials of so many steps would never be stopped early; empty when they can be."""
    sweep, every = recipe.sweep, recipe.evaluate.every
    if sweep is None or sweep.early_stop is None or every is None:
        return ""
    first = sweep.early_stop.first_step(every, steps)
    if first < steps:
        return ""
    return (
        f"trials have {steps} steps and the first evaluation that counts is at step {first}; "
        "lower evaluate.every (or sweep.early_stop.from_step)"
    )


def no_curve_for(recipe: Recipe, rows: int) -> str:
    """The same where only the number of training rows tells how many steps there are."""
    train = recipe.train
    an_epoch = math.ceil(rows / train.rows_per_step)
    return no_curve(recipe, train.max_steps or math.ceil(train.epochs * an_epoch))


def not_swept(key: str, data: dict[str, Any]) -> str:
    """Why a key cannot be swept; empty when it can."""
    shown = safe_line(key, 80)
    if key.startswith(NOT_SWEPT[4]) or key in NOT_SWEPT or key.split(".")[0] in NOT_SWEPT:
        return f"{shown} {_NO_SWEEP}"
    if key not in keys.leaves():
        return keys.unknown(key, shown)
    section = data.get("data")
    if key in ("data.train", "data.split", "data.revision") and not (
        isinstance(section, dict) and section.get("eval")
    ):
        return f"{shown} can be swept only beside data.eval: else each trial holds out other rows"
    return ""


def _check_value(
    source: Source, plain: dict[str, Any], before: set[KeyPath], key: str, value: Any, path: KeyPath
) -> None:
    at = keys.split(key)
    for place, what in problems(put(plain, at, value)):
        if place[: len(at)] == at or place not in before:
            source.wrong(path, f"as a value to try, {what}")


def _check_range(
    source: Source,
    plain: dict[str, Any],
    before: set[KeyPath],
    key: str,
    values: dict[str, Any],
    path: KeyPath,
) -> None:
    if not keys.takes_numbers(key):
        source.wrong(path, f"{key} takes no numbers; list the values to try")
        return
    if keys.takes_whole_numbers(key) and values.get("integer") is not True:
        source.wrong(path, f"{key} takes whole numbers; add integer: true to its range")
        return
    for end in ("min", "max"):
        number = values.get(end)
        if isinstance(number, int | float) and not isinstance(number, bool):
            whole = keys.takes_whole_numbers(key) and number == number // 1
            value = int(number) if whole else number
            _check_value(source, plain, before, key, value, (*path, end))
