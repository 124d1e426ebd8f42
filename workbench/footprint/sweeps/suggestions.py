"""Suggestions for a recipe with a sweep: what makes its worst case fit must change the sweep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from workbench.errors import DoesNotFit
from workbench.footprint.outlook import Outlook
from workbench.footprint.planner import Config, History, plan_trial
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.suggestions import Changes, Suggestion, suggestion_words
from workbench.footprint.sweeps.worst_case import worst_case_recipe
from workbench.recipe import apply_settings
from workbench.recipe.schema import Choice, Parameter, Range, Recipe
from workbench.recipe.space import values_of


def with_sweep_suggestions(
    outlook: Outlook, recipe: Recipe, config: Config, lengths: Lengths, history: History
) -> Outlook:
    """Return the outlook of a sweep's worst case with suggestions that fit the whole sweep.

    A new value of a swept setting has no effect on its trials, so that the sweep's values are
    narrowed to those that fit. Suggestions that leave no value, or another worst case that does not
    fit, are left out; the last one names a card and stays.
    """
    if recipe.sweep is None or not outlook.suggestions:
        return outlook
    kept = _narrowed(outlook, recipe, config, lengths, history)
    return replace(outlook, suggestions=(*kept, outlook.suggestions[-1]))


def _narrowed(
    outlook: Outlook, recipe: Recipe, config: Config, lengths: Lengths, history: History
) -> Iterator[Suggestion]:
    """Yield the suggestions of settings that fit the whole sweep, as changes of the sweep."""
    for suggestion in outlook.suggestions:
        changes = _sweep_changes(recipe, suggestion.settings) if suggestion.settings else None
        if changes is None:
            continue
        changed = _apply_changes(recipe, changes)
        worst, _ = worst_case_recipe(changed, config, outlook.card)
        try:
            plan = plan_trial(
                worst, config, outlook.card, lengths=lengths, history=history, advise=False
            )
        except DoesNotFit:
            continue
        words, settings = suggestion_words(changes), changes
        yield Suggestion(words=words, settings=settings, peak_bytes=plan.predicted_bytes)


SWEPT = "sweep.parameters."


def _sweep_changes(recipe: Recipe, changes: Changes) -> Changes | None:
    """Return the changes with narrowed sweeps for swept settings; None if one gets empty."""
    assert recipe.sweep is not None
    found: Changes = {}
    for key, value in changes.items():
        parameter = recipe.sweep.parameters.get(key)
        if parameter is None:
            found[key] = value
            continue
        narrowed = _narrow(parameter, value)
        if narrowed is None:
            return None
        found[SWEPT + key] = narrowed
    return found


def _narrow(parameter: Parameter, value: object) -> Any:
    """Return the part of a swept parameter up to `value`, as plain data; None if nothing is left.

    Numbers are those up to `value`, since bytes rise with every setting that suggestions lower;
    of words only `value` itself is left.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(parameter, Range):
        if not number or not parameter.min < value:  # type: ignore[operator]
            return None
        return parameter.model_copy(update={"max": value}).model_dump(exclude_defaults=True)
    values = values_of(parameter) or []
    left = [one for one in values if one == value or (number and one <= value)]
    if not left:
        return None
    if isinstance(parameter, Choice):
        return {**parameter.model_dump(exclude_defaults=True), "values": left}
    return left


def _apply_changes(recipe: Recipe, changes: Changes) -> Recipe:
    """Return the recipe with settings and narrowed sweeps applied."""
    assert recipe.sweep is not None
    data = recipe.model_dump(mode="json")
    plain = {key: value for key, value in changes.items() if not key.startswith(SWEPT)}
    for key, value in changes.items():
        if key.startswith(SWEPT):
            data["sweep"]["parameters"][key.removeprefix(SWEPT)] = value
    return apply_settings(Recipe.model_validate(data), plain)
