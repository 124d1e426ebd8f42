"""The point of a sweep that takes the most bytes: what fits it fits the whole sweep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from workbench.errors import WorkbenchError
from workbench.footprint.outlook import resized_card, smallest_card
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.planner import Config, plan_trial
from workbench.machine.cards import Card
from workbench.recipe import apply_settings
from workbench.recipe.schema import Choice, Parameter, Range, Recipe
from workbench.recipe.space import condition_of, grid_points, values_of

_BYTE_SETTINGS = (
    "lora.rank",
    "lora.dropout",
    "lora.targets",
    "data.max_tokens",
    "data.packing",
    "train.batch_size",
    "train.accumulation",
    "train.optimizer",
    "train.gradient_checkpointing",
    "model.quantization",
    "model.double_quantization",
    "model.precision",
    "model.attention",
)
"""Settings on which bytes depend, among those that a sweep may vary."""
MOST_CORNERS = 256
"""Points of a conditional sweep that are compared at most."""
MOST_GIB = 1 << 20
"""A card size beyond any that exists."""


def affects_bytes(key: str) -> bool:
    """Return whether a trial with another value of this setting may take other bytes.

    Settings outside `train` that are unknown here count as such, to be on the safe side.
    """
    return key in _BYTE_SETTINGS or not key.startswith("train.")


def worst_case_recipe(
    recipe: Recipe, config: Config, card: Card
) -> tuple[Recipe, dict[str, object]]:
    """Return the recipe of the sweep's point that takes the most bytes, and that point's settings.

    Without a sweep it is the recipe itself, with no settings. Bytes are compared on cards like
    `card`, with rows of data.max_tokens. A point that cannot run on the card counts as the worst.
    Without conditions each setting is judged beside the worst values of those before it; with them,
    the points that can exist at the ends of ranges, MOST_CORNERS at most.
    """
    plain = recipe.model_copy(update={"sweep": None})
    if recipe.sweep is None:
        return plain, {}
    point: dict[str, object] = {}
    parameters = recipe.sweep.parameters

    def needed(settings: dict[str, object]) -> tuple[int, int]:
        return _needed_bytes(apply_settings(plain, settings), config, card)

    if any(condition_of(parameters[key]) for key in _BYTE_SETTINGS if key in parameters):
        point = max(_corners(parameters), key=lambda p: needed(_byte_settings(p)))
        return apply_settings(plain, point), point
    for key in _BYTE_SETTINGS:  # the rank first, with which the optimizers differ most
        if key in parameters:
            tried = extremes(parameters[key])
            sizes = [needed({**point, key: value}) for value in tried]
            point[key] = tried[sizes.index(max(sizes))]
    point = {key: point[key] for key in parameters if key in point}
    return apply_settings(plain, point), point


def worst_points(recipe: Recipe, config: Config, cards: Sequence[Card]) -> list[dict[str, object]]:
    """Return for each card the settings of the point that takes the most bytes on such cards.

    Cards of one kind and compute capability differ in their size alone, which decides nothing here.
    """
    unlike = {(card.kind, card.capability): card for card in cards}
    found = {kind: worst_case_recipe(recipe, config, card)[1] for kind, card in unlike.items()}
    return [found[card.kind, card.capability] for card in cards]


def _corners(parameters: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Return points that can exist, at the extremes of the settings that decide bytes.

    Settings that conditions name have all their values.
    """
    return list(islice(_points(parameters, extremes), MOST_CORNERS))


def byte_points(recipe: Recipe, most: int) -> list[dict[str, Any]]:
    """Return points that can exist, of every value that decides bytes; of ranges both ends.

    They are the first `most` of the grid; without a sweep the one without settings.
    """
    if recipe.sweep is None:
        return [{}]

    def values(parameter: Parameter) -> list[Any]:
        return values_of(parameter) or extremes(parameter)

    return list(islice(_points(recipe.sweep.parameters, values), most))


def _points(
    parameters: Mapping[str, Parameter], values_tried: Callable[[Parameter], list[Any]]
) -> Iterator[dict[str, Any]]:
    asked = {key for one in parameters.values() for key in condition_of(one)}
    ends: dict[str, Parameter] = {}
    for key, parameter in parameters.items():
        values = values_of(parameter)
        if key in asked and values is not None:
            ends[key] = Choice(values=values, when=condition_of(parameter))
        elif key in _BYTE_SETTINGS:
            ends[key] = Choice(values=values_tried(parameter), when=condition_of(parameter))
    return grid_points(ends)


def _byte_settings(point: Mapping[str, Any]) -> dict[str, object]:
    return {key: value for key, value in point.items() if key in _BYTE_SETTINGS}


def extremes(parameter: Parameter) -> list[Any]:
    """Return both ends of numbers, since bytes rise or fall with them; all values of words."""
    if isinstance(parameter, Range):
        ends = (math.ceil(parameter.min), math.floor(parameter.max))
        return list(ends if parameter.integer else (parameter.min, parameter.max))
    values = values_of(parameter) or []
    if all(isinstance(value, int | float) for value in values):
        return [min(values), max(values)]
    return values


def _needed_bytes(recipe: Recipe, config: Config, card: Card) -> tuple[int, int]:
    """Return the bytes of the smallest card that takes a recipe, then its peak with enough room.

    The second decides between recipes that fit the same card in different ways.
    """
    endless = resized_card(card, MOST_GIB * GIB)
    try:
        smallest = smallest_card(recipe, config, card)[0]
        return smallest, plan_trial(recipe, config, endless).predicted_bytes
    except WorkbenchError:  # it cannot run here at all: the person should hear of this point
        return MOST_GIB * GIB, 0
