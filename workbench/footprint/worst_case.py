"""The point of a sweep that takes the most bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

from workbench.errors import WorkbenchError
from workbench.footprint.choose import choose_plan
from workbench.footprint.outlook import Config, leanest, sized
from workbench.footprint.usual_cards import GIB
from workbench.machine.cards import Card
from workbench.recipe import apply_settings
from workbench.recipe.schema import Choice, Parameter, Range, Recipe
from workbench.recipe.space import condition_of, grid, values_of

_TELLING = (
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
"""Settings on which bytes depend, of those that a sweep may vary."""


def bears_on_bytes(key: str) -> bool:
    """Whether a trial with another value of this setting may take other bytes."""
    return key in _TELLING or not key.startswith("train.")


def hungriest(recipe: Recipe, config: Config, card: Card) -> tuple[Recipe, dict[str, object]]:
    """The point of a sweep that takes the most bytes, and its settings; the recipe without one."""
    plain = recipe.model_copy(update={"sweep": None})
    if recipe.sweep is None:
        return plain, {}
    point: dict[str, object] = {}
    parameters = recipe.sweep.parameters
    if any(condition_of(parameters[key]) for key in _TELLING if key in parameters):
        point = max(_corners(parameters), key=lambda p: _hunger(plain, _told(p), config, card))
        return apply_settings(plain, point), point
    for key, values in parameters.items():
        if key in _TELLING:
            tried = _telling(values)
            point[key] = max(tried, key=lambda v: _hunger(plain, {key: v}, config, card))
    return apply_settings(plain, point), point


MOST_CORNERS = 256
MOST_GIB = 1 << 20
"""More than what is asked for in earnest."""


def _corners(parameters: Mapping[str, Parameter]) -> list[dict[str, Any]]:
    """Points that can exist: the ends of what tells of bytes, with all that its conditions name."""
    asked = {key for one in parameters.values() for key in condition_of(one)}
    ends: dict[str, Parameter] = {}
    for key, parameter in parameters.items():
        values = values_of(parameter)
        if key in asked and values is not None:
            ends[key] = Choice(values=values, when=condition_of(parameter))
        elif key in _TELLING:
            ends[key] = Choice(values=_telling(parameter), when=condition_of(parameter))
    return list(islice(grid(ends), MOST_CORNERS))


def _told(point: Mapping[str, Any]) -> dict[str, object]:
    return {key: value for key, value in point.items() if key in _TELLING}


def _telling(parameter: Parameter) -> list[Any]:
    """Of numbers both ends, since bytes rise or fall with them; of words all."""
    if isinstance(parameter, Range):
        ends = (math.ceil(parameter.min), math.floor(parameter.max))
        return list(ends if parameter.integer else (parameter.min, parameter.max))
    values = values_of(parameter) or []
    if all(isinstance(value, int | float) for value in values):
        return [min(values), max(values)]
    return values


def _hunger(
    recipe: Recipe, settings: dict[str, object], config: Config, card: Card
) -> tuple[int, int]:
    """The smallest card that takes it, then its bytes with room enough."""
    tried = apply_settings(recipe, settings)
    endless = sized(card, MOST_GIB * GIB)
    try:
        return leanest(tried, config, card)[0], choose_plan(tried, config, endless).predicted_bytes
    except WorkbenchError:  # a point that cannot run here at all is the one to tell of
        return MOST_GIB * GIB, 0
