"""Changes of a recipe with which it fits a card, each computed by the planner, so that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workbench.footprint.model.positions import model_positions
from workbench.footprint.peak.buckets import GIB
from workbench.footprint.plan import Plan
from workbench.footprint.plan_search import largest_fitting
from workbench.footprint.planner import Config
from workbench.footprint.row_lengths import Lengths
from workbench.footprint.usual_cards import SIZES_GB
from workbench.recipe.schema import Recipe

Changes = dict[str, object]
"""New values by dotted setting, as in `lora.rank`."""
PlanWith = Callable[[Changes], Plan | None]
"""Plans the recipe with changes applied; returns None where it does not fit the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """A change with which the recipe fits."""

    words: str
    """The change for people, as an imperative."""
    settings: Changes
    """The settings to change; empty where another card is needed."""
    peak_bytes: int
    """The peak of the recipe with this change."""


def suggest_settings(
    recipe: Recipe, config: Config, lengths: Lengths, plan_with: PlanWith
) -> list[Suggestion]:
    """Return the nearest settings that fit: each alone where that is enough, else one set of them.

    Returns an empty list where no settings fit. Calls `plan_with` some dozens of times.
    """
    longest, cheap = _longest_useful(recipe, config, lengths), _cheaper_settings(recipe)
    alone = [{key: value} for key, value in cheap.items()]
    found = _fitting([*alone, *_lower(recipe, {}, longest, plan_with)], plan_with)
    if not found and cheap:
        together = [_needed(cheap, plan_with), *_lower(recipe, cheap, longest, plan_with)]
        found = _fitting(together, plan_with)[:1]
    if not found:
        small: Changes = {**cheap, "lora.rank": min(8, recipe.lora.rank)}
        found = _fitting(_lower(recipe, small, longest, plan_with), plan_with)[:1]
    return found


def suggest_card(total_bytes: int, peak_bytes: int) -> Suggestion:
    """Return the suggestion to use a card of that size, named by the nearest usual size."""
    gib = -(-total_bytes // GIB)
    name = next((f"card of {gb} GB" for gb in SIZES_GB if gb >= gib), f"card of {gib} GiB")
    needed = -(-10 * total_bytes // GIB) / 10  # rounded up: a card of that size must be enough
    words = f"use a {name}: it needs {needed:.1f} GiB"
    return Suggestion(words=words, settings={}, peak_bytes=peak_bytes)


def suggestion_words(changes: Changes) -> str:
    """Return `set lora.rank: 8 and data.max_tokens: 512`."""
    return "set " + " and ".join(f"{key}: {_yaml_value(value)}" for key, value in changes.items())


def _longest_useful(recipe: Recipe, config: Config, lengths: Lengths) -> int:
    """Return the tokens below which data.max_tokens has to go to change anything.

    More than the model's positions is never worth a suggestion: such rows are refused.
    """
    positions = model_positions(config) or recipe.data.max_tokens
    read = lengths["longest"] or recipe.data.max_tokens
    return min(recipe.data.max_tokens, read, positions + 1)


def _cheaper_settings(recipe: Recipe) -> Changes:
    """Return settings that take fewer bytes at the cost of speed alone."""
    changes: Changes = {}
    if recipe.train.optimizer not in ("auto", "paged_adamw_8bit", "sgd"):
        changes["train.optimizer"] = "paged_adamw_8bit"
    if recipe.train.gradient_checkpointing == "off":
        changes["train.gradient_checkpointing"] = "auto"
    if recipe.model.quantization == "none":
        changes["model.quantization"] = "nf4"
    elif not recipe.model.double_quantization:
        changes["model.double_quantization"] = True
    return changes


def _needed(changes: Changes, plan_with: PlanWith) -> Changes:
    """Return the changes without those that it fits without, too."""
    kept = dict(changes)
    for key in changes:
        without = {k: v for k, v in kept.items() if k != key}
        if plan_with(without) is not None:
            kept = without
    return kept


def _lower(
    recipe: Recipe, besides: Changes, longest: int, plan_with: PlanWith
) -> Iterator[Changes]:
    """Yield the longest rows that fit, then the highest rank that does, each with `besides`.

    `longest` bounds data.max_tokens from above, itself excluded.
    """
    steps = [*range(8, 64, 8), *range(64, longest, 64)]
    yield from _largest("data.max_tokens", [n for n in steps if n < longest], besides, plan_with)
    ranks = [1 << power for power in range(recipe.lora.rank.bit_length())]
    ranks = [rank for rank in ranks if rank < recipe.lora.rank]
    yield from _largest("lora.rank", ranks, besides, plan_with)


def _largest(
    key: str, values: Sequence[int], besides: Changes, plan_with: PlanWith
) -> Iterator[Changes]:
    """Yield `besides` with the largest of the rising `values` that fits, if any does."""
    tried = [{**besides, key: value} for value in values]
    if count := largest_fitting(len(tried), lambda n: plan_with(tried[n - 1]) is not None):
        yield tried[count - 1]


def _fitting(candidates: Iterable[Changes], plan_with: PlanWith) -> list[Suggestion]:
    """Return the suggestions of those changes that fit, in their order."""
    planned = ((changes, plan_with(changes)) for changes in candidates)
    return [
        Suggestion(
            words=suggestion_words(changes), settings=changes, peak_bytes=plan.predicted_bytes
        )
        for changes, plan in planned
        if plan is not None
    ]


def _yaml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml_value(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
