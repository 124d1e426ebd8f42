"""The point of a sweep that takes the most bytes."""

from __future__ import annotations

from typing import Any

from workbench.cards import Card
from workbench.errors import WorkbenchError
from workbench.footprint.choose import choose_plan
from workbench.footprint.outlook import MOST_GIB, Config, leanest, sized
from workbench.footprint.usual_cards import GIB
from workbench.recipe import apply_settings
from workbench.recipe.schema import Range, Recipe

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


def hungriest(recipe: Recipe, config: Config, card: Card) -> tuple[Recipe, dict[str, object]]:
    """The point of a sweep that takes the most bytes, and its settings; the recipe without one."""
    plain = recipe.model_copy(update={"sweep": None})
    if recipe.sweep is None:
        return plain, {}
    point: dict[str, object] = {}
    for key, values in recipe.sweep.parameters.items():
        if key in _TELLING:
            tried = _telling(values)
            point[key] = max(tried, key=lambda v: _hunger(plain, {key: v}, config, card))
    return apply_settings(plain, point), point


def _telling(values: list[Any] | Range) -> list[Any]:
    """Of numbers both ends, since bytes rise or fall with them; of words all."""
    if isinstance(values, Range):
        return [int(end) if values.integer else end for end in (values.min, values.max)]
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
        return leanest(tried, config, card, None)[0], choose_plan(
            tried, config, endless
        ).predicted_bytes
    except WorkbenchError:  # a point that cannot run here at all is the one to tell of
        return MOST_GIB * GIB, 0
