"""Validate plain values against the schema, and describe every mistake in plain words."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Iterator
from types import NoneType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from workbench.recipe import keys
from workbench.recipe.schema import OBJECTIVES, MixedSource, Recipe
from workbench.recipe.source import KeyPath, YamlSource, dotted_path
from workbench.recipe.space import (
    condition_of,
    in_condition_order,
    meets_condition,
    repeated_values,
    values_of,
)
from workbench.text import safe_line
from workbench.trial import up_is_better

NOT_SWEPT = ("name", "sweep", "model.name", "model.revision", "data.eval", "data.test", "evaluate")
"""Keys that no sweep may vary, because trials that differ in one of them cannot be compared.

`data.eval` and `data.test` cover every key that begins with them."""

_NO_SWEEP = "cannot be swept: its trials could not be compared"


def validate_recipe(source: YamlSource) -> Recipe | None:
    """Return the recipe; None if the values are no recipe. Mistakes are recorded in `source`.

    Checks between several settings run too, so that all mistakes are reported at once.
    """
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as wrong:
        for path, what in _mistakes(wrong, source.data):
            source.wrong(path, what)
    # Sweeps are checked on plain values, so that their mistakes show beside those of the schema.
    _check_sweep(source)
    if recipe is not None:
        _check_kept(source, recipe)
        _check_scores(source, recipe)
        _check_conditions(source, recipe)
    return recipe


def recipe_problems(data: dict[str, Any]) -> list[tuple[KeyPath, str]]:
    """Return the mistakes of plain values, each with its path; an empty list for a recipe."""
    try:
        Recipe.model_validate(data)
    except ValidationError as wrong:
        return list(_mistakes(wrong, data))
    return []


def with_value(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy of `data` with the value at `path` replaced; missing sections are created."""
    changed = dict(data)
    if len(path) == 1:
        changed[path[0]] = value
    else:
        inner = changed.get(path[0])
        changed[path[0]] = with_value(inner if isinstance(inner, dict) else {}, path[1:], value)
    return changed


def _mistakes(wrong: ValidationError, data: Any) -> Iterator[tuple[KeyPath, str]]:
    """Generate one mistake per path.

    Pydantic reports an error for every branch of a union. Errors of branches that the value
    evidently does not belong to, such as "not a list" for a mapping, are dropped where another
    error stands at their place or inside.
    """
    told: dict[KeyPath, str] = {}
    dropped: dict[KeyPath, str] = {}
    for error in wrong.errors(include_url=False):
        path, value = _follow(error, data)
        kind = error["type"]
        other_branch = (
            (kind == "list_type" and isinstance(value, dict))
            or (kind in ("model_type", "dict_type", "literal_error") and isinstance(value, list))
            or (path == ("data", "train") and kind == "string_type" and isinstance(value, list))
        )
        (dropped if other_branch else told).setdefault(path, _words(error, path, value))
    for path, words in sorted(dropped.items(), key=lambda one: -len(one[0])):  # innermost first
        if not any(other[: len(path)] == path for other in told):
            told[path] = words
    yield from told.items()


def _follow(error: ErrorDetails, data: Any) -> tuple[KeyPath, Any]:
    """Return the path of an error and the value there.

    Pydantic's location contains names of union branches, which are no keys of the file.
    """
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
    name = dotted_path(path)
    kind = error["type"]
    if kind == "extra_forbidden" and path[:2] == ("data", "train"):
        known = ", ".join(MixedSource.model_fields)
        return f"{name} is not a setting of a source; these are: {known}"
    if kind == "extra_forbidden":
        return keys.unknown_key(key, name)
    if kind == "missing":
        return f"{name} is missing"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        limit = error.get("ctx", {})[bound]
        # `g` alone would write 1048576 as 1.04858e+06, which is another number.
        whole = float(limit).is_integer() and abs(limit) < 1e15
        return f"{name} {words} {int(limit) if whole else f'{limit:g}'}, not {_shown(value)}"
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
        return f"{name} {said}" if key in keys.setting_fields() else f"{name}: {said}"
    # A list item has no key of its own in the schema; all our lists hold text.
    item = isinstance(path[-1], int) if path else False
    wants = "text" if item else keys.accepted_words(key)
    if item and path[:2] == ("data", "train"):
        wants = "a file, a folder, a hub id, or settings such as {path: a.jsonl, weight: 2}"
    meant = "; write null for none" if _means_null(key, value) else ""
    return f"{name} must be {wants}, not {_shown(value)}{meant}"


def _means_null(key: str, value: Any) -> bool:
    """Return whether the value is a word for null, where the setting may be null."""
    info = keys.setting_fields().get(key)
    words = isinstance(value, str) and value.strip().lower() in ("none", "nil", "no", "off")
    return words and info is not None and NoneType in keys.type_alternatives(info.annotation)


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


def _check_sweep(source: YamlSource) -> None:
    """Check that every swept key is a setting that may vary, and that it accepts every value."""
    sweep = source.data.get("sweep") if isinstance(source.data, dict) else None
    parameters = sweep.get("parameters") if isinstance(sweep, dict) else None
    if not isinstance(parameters, dict):
        return
    plain = copy.copy(source.data)
    plain["sweep"] = None
    # Mistakes that the file has without the swept value must not be reported once per value.
    before = {path for path, _ in recipe_problems(plain)}
    for key, values in parameters.items():
        path = ("sweep", "parameters", key)
        if refused := not_swept(key, source.data):
            source.wrong(path, refused)
        elif isinstance(values, dict) and "values" not in values:
            _check_range(source, plain, before, key, values, path)
        else:
            at: KeyPath = (*path, "values") if isinstance(values, dict) else path
            listed = values["values"] if isinstance(values, dict) else values
            accepted = {
                index: value
                for index, value in enumerate(listed if isinstance(listed, list) else ())
                if _check_value(source, plain, before, key, value, (*at, index))
            }
            for index in repeated_values(key, accepted):
                what = f"{key} has {_shown_exactly(accepted[index])} twice, {_REPEATED}"
                source.wrong((*at, index), what)


_REPEATED = (
    "which trains equal trials; take it out, or repeat trials with other seeds: "
    "list values of train.seed, or set sweep.finals"
)


def _shown_exactly(value: Any) -> str:
    """Return a value as YAML writes it on one line, shortened."""
    return safe_line(json.dumps(value, ensure_ascii=False), 60)


def _check_conditions(source: YamlSource, recipe: Recipe) -> None:
    """Check that every `when` names a swept list and can hold for one of its values."""
    parameters = recipe.sweep.parameters if recipe.sweep is not None else {}
    for key, parameter in parameters.items():
        for other, wanted in condition_of(parameter).items():
            path = ("sweep", "parameters", key, "when", other)
            values = values_of(parameters[other]) if other in parameters else []
            if other not in parameters:
                shown = safe_line(other, 80) or "an empty name"
                source.wrong(path, f"{key} exists when {shown} has a value, which is not swept")
            elif values is None:
                source.wrong(path, f"{key} depends on {other}, which is a range; list its values")
            elif not any(meets_condition(value, wanted) for value in values):
                source.wrong(path, f"{key} never exists: {other} is never {_shown(wanted)}")
    try:
        in_condition_order(parameters)
    except ValueError as circle:
        source.wrong(("sweep", "parameters"), safe_line(circle, 200))


def _check_kept(source: YamlSource, recipe: Recipe) -> None:
    """Check that the best weights can be told from the last."""
    if recipe.train.keep == "best" and recipe.evaluate.every is None:
        source.wrong(("train", "keep"), f"train.keep: best {_NO_CURVE}")


def _check_scores(source: YamlSource, recipe: Recipe) -> None:
    """Check that trials leave the scores and curves that the search and the early stopper use."""
    sweep = recipe.sweep
    if sweep is None:
        return
    scorers = recipe.evaluate.scorers
    if sweep.objective == "exact_match" and not scorers:
        what = "sweep.objective: exact_match needs evaluate.answer_pattern"
        source.wrong(("sweep", "objective"), what)
    elif sweep.objective not in (*OBJECTIVES, *scorers):
        source.wrong(("sweep", "objective"), _unknown_objective(sweep.objective, scorers))
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
        elif recipe.train.max_steps and (why := early_stop_problem(recipe, recipe.train.max_steps)):
            source.wrong(("sweep", "early_stop"), f"sweep.early_stop: {why}")


def _unknown_objective(name: str, scorers: tuple[str, ...]) -> str:
    known = (*OBJECTIVES, *scorers)
    near = difflib.get_close_matches(name[:80], known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    shown = safe_line(name, 60)
    return f"sweep.objective must be one of {', '.join(known)}, not the text '{shown}'{meant}"


_NO_CURVE = "needs a curve of held-out losses; set evaluate.every to some optimizer steps, e.g. 25"


def early_stop_problem(recipe: Recipe, steps: int) -> str:
    """Return why trials of `steps` steps could never be stopped early; empty if they can be."""
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


def early_stop_problem_for(recipe: Recipe, rows: int) -> str:
    """Return `early_stop_problem` for trials of `rows` training rows.

    Used once the rows are counted, if the recipe gives epochs and not steps.
    """
    train = recipe.train
    an_epoch = math.ceil(rows / train.rows_per_step)
    return early_stop_problem(recipe, train.max_steps or math.ceil(train.epochs * an_epoch))


_TRAINED_ROWS = ("data.train", "data.split", "data.revision", "data.config")
"""Settings that say which rows are read; rows may be held out of them."""


def not_swept(key: str, data: dict[str, Any]) -> str:
    """Return why a key cannot be swept; empty if it can."""
    shown = safe_line(key, 80)
    if key.startswith(NOT_SWEPT[4:6]) or key in NOT_SWEPT or key.split(".")[0] in NOT_SWEPT:
        return f"{shown} {_NO_SWEEP}"
    if key not in keys.setting_fields():
        return keys.unknown_key(key, shown)
    section = data.get("data")
    if key in _TRAINED_ROWS and not (isinstance(section, dict) and section.get("eval")):
        return f"{shown} can be swept only beside data.eval: else each trial holds out other rows"
    if key in _TRAINED_ROWS and _draws_test_rows(section):
        return f"{shown} can be swept only beside data.test: else each trial has other test rows"
    return ""


def _draws_test_rows(section: Any) -> bool:
    """Return whether test rows come from the training data."""
    if not isinstance(section, dict) or section.get("test"):
        return False
    return bool(section.get("test_rows") or section.get("test_split"))


def _check_value(
    source: YamlSource,
    plain: dict[str, Any],
    before: set[KeyPath],
    key: str,
    value: Any,
    path: KeyPath,
) -> bool:
    """Record the mistakes of a value to try at `path`; return True if there are none."""
    at = keys.split_key(key)
    problems = [
        what
        for place, what in recipe_problems(with_value(plain, at, value))
        if place[: len(at)] == at or place not in before
    ]
    for what in problems:
        source.wrong(path, f"as a value to try, {what}")
    return not problems


def _check_range(
    source: YamlSource,
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
            # A whole end such as 8.0 must pass as 8, because the schema is strict about types.
            whole = keys.takes_whole_numbers(key) and number == number // 1
            value = int(number) if whole else number
            _check_value(source, plain, before, key, value, (*path, end))
