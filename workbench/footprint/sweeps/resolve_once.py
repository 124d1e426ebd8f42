"""The settings that all trials of an experiment share: precision, optimizer, rows scored at once.

The engine settles them once, when an experiment is queued. `plan`, `check` and the screen ask the
same function, so that what they say of a card is what the engine then plans there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.footprint.oom_fallback import hardware_key
from workbench.footprint.peak.scoring_bytes import smallest_batch
from workbench.footprint.plan import Plan
from workbench.footprint.planner import NO_HISTORY, Config, History, plan_trial
from workbench.footprint.row_lengths import UNREAD, Lengths
from workbench.footprint.sweeps.worst_case import byte_points, extremes, worst_points
from workbench.machine.attention import best_precision
from workbench.machine.cards import Card
from workbench.recipe import apply_settings, settings_of
from workbench.recipe.schema import Recipe

FEWER_BYTES = "paged_adamw_8bit"
MOST_POINTS = 32
"""Points of a sweep of which each is planned, to learn how many rows all of them can score."""


def resolve_once(
    recipe: Recipe,
    config: Config,
    cards: Sequence[Card],
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
) -> dict[str, Any]:
    """Return precision, optimizer and rows scored at once for all trials of an experiment.

    They keep the trials comparable: bf16 only when every GPU here has it (compute capability 8.0),
    else fp16, which all have; the optimizer of fewer bytes as soon as one card needs it for the
    largest trial of the sweep, or no card takes that trial; as many rows at once as all trials can
    score on each card that takes the largest. On a card that is too small for it, the recipe itself
    counts. `lengths` are those of the recipe's own rows. Takes some 10 ms for each card and point
    (MOST_POINTS at most), and 0.1 s for each swept value.
    """
    cards = list({(hardware_key(card), card.capability): card for card in cards}.values())
    lengths = sweep_lengths(recipe, lengths)
    settings: dict[str, Any] = {
        "model.precision": shared_precision(recipe, cards),
        "train.optimizer": recipe.train.optimizer,
    }
    points = worst_points(with_resolved(recipe, settings), config, cards)
    largest = list(zip(cards, points, strict=True))

    def fitting(card: Card, point: Mapping[str, Any]) -> Plan | None:
        one = resolved_recipe(recipe, settings, point)
        try:
            return plan_trial(one, config, card, lengths=lengths, history=history, advise=False)
        except WorkbenchError:
            return None

    if recipe.train.optimizer == "auto":
        settings["train.optimizer"] = _optimizer(largest, fitting)
    settings["evaluate.batch_size"] = _rows_at_once(recipe, largest, fitting)
    return settings


Largest = Sequence[tuple[Card, Mapping[str, Any]]]
"""For each card the point of the sweep that takes the most bytes there."""
Fitting = Callable[[Card, Mapping[str, Any]], Plan | None]
"""Plans a point of the sweep on a card; None where it does not fit."""


def _optimizer(largest: Largest, fitting: Fitting) -> str:
    plans = [fitting(card, {**point, "train.optimizer": "auto"}) for card, point in largest]
    if not any(plans):  # as many of the other trials as possible should fit
        return FEWER_BYTES
    shown = [plan or fitting(card, {}) for (card, _), plan in zip(largest, plans, strict=True)]
    needed = any(plan is not None and plan.optimizer == FEWER_BYTES for plan in shown)
    return FEWER_BYTES if needed else "adamw_torch"


def _rows_at_once(recipe: Recipe, largest: Largest, fitting: Fitting) -> int:
    """Return the rows that every trial can score at once on each card that takes all of them.

    In 16 bits the size of a batch decides the last digits of a loss, and now and then an answer.
    """
    plans: list[Plan | None] = []
    every = byte_points(recipe, MOST_POINTS)
    for card, point in largest:
        plan = fitting(card, point)
        plans.append(plan or fitting(card, {}))
        if plan is not None:  # smaller trials may run in a way that leaves less room to score
            plans += [fitting(card, other) for other in every]
    rows = [plan.eval_batch for plan in plans if plan is not None]
    return min(rows, default=smallest_batch(recipe))


def shared_precision(recipe: Recipe, cards: Sequence[Card]) -> str:
    """Return the recipe's precision; for `auto` the best one that every GPU of `cards` has."""
    named = recipe.model.precision
    return best_precision(cards) if named == "auto" else named


def with_resolved(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe with what all its trials share, and with its sweep."""
    return apply_settings(recipe, settings).model_copy(update={"sweep": recipe.sweep})


def resolved_recipe(
    recipe: Recipe, resolved: Mapping[str, Any], settings: Mapping[str, Any]
) -> Recipe:
    """Return the recipe of a trial with `settings`, beside what was resolved for all trials.

    A trial's own `auto` is what was resolved, where the recipe itself leaves the setting open, too.
    """
    own = settings_of(recipe)
    is_open = {key for key in resolved if own[key] == "auto"}
    mine = {key: v for key, v in settings.items() if not (v == "auto" and key in is_open)}
    return apply_settings(recipe, {**resolved, **mine})


def sweep_lengths(recipe: Recipe, lengths: Lengths) -> Lengths:
    """Return the lengths with which every trial can be planned: UNREAD where some read other rows.

    `lengths` are those of the recipe's own rows.
    """
    swept = recipe.sweep.parameters if recipe.sweep is not None else {}
    own = recipe.data.model_dump(mode="json")
    alike = all(
        _are_same_rows({**own, key.removeprefix("data."): value}, own)
        for key, parameter in swept.items()
        if key.startswith("data.")
        for value in extremes(parameter)
    )
    return lengths if alike else UNREAD


def trial_lengths(data: Mapping[str, Any], own: Mapping[str, Any], lengths: Lengths) -> Lengths:
    """Return `lengths`, those of the rows of settings `own`, or UNREAD where `data` reads others.

    Both are sections `data` of a recipe, as plain data.
    """
    return lengths if _are_same_rows(data, own) else UNREAD


def _are_same_rows(data: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Return whether `data` reads the rows of `own`, or the same ones cut shorter."""
    left_out: dict[str, None] = {"group_by_length": None}
    if not data["packing"] and data["max_tokens"] <= own.get("max_tokens", 0):
        left_out["max_tokens"] = None
    return {**data, **left_out} == {**own, **left_out}
