"""Plans for trials: collects what the store knows of a trial and its card, and asks the planner."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from workbench.adapters.subjects import NOT_OF_RECIPE
from workbench.errors import DoesNotFit, WorkbenchError
from workbench.footprint import History, Plan, plan_trial
from workbench.footprint.row_lengths import Lengths, lengths_of
from workbench.footprint.sweeps.resolve_once import resolved_recipe, trial_lengths
from workbench.machine.cards import Card
from workbench.recipe import Recipe, apply_settings
from workbench.scheduler.plans import measured_peaks, oom_fallback
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment


def experiment_recipe(experiment: Experiment) -> Recipe:
    """Return the experiment's recipe, its sweep included."""
    # Through JSON, because the stored recipe is plain JSON and the schema is strict about types.
    return Recipe.model_validate_json(json.dumps(experiment.recipe))


def unresolved_recipe(experiment: Experiment, settings: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a trial with these settings, before anything is resolved."""
    one_trial = experiment_recipe(experiment).model_copy(update={"sweep": None})
    return apply_settings(one_trial, settings)


def recipe_with(experiment: Experiment, settings: Mapping[str, Any]) -> Recipe:
    """Return the experiment's recipe with what was resolved once and a trial's own settings.

    Settings of a trial that only scores or chats are none of a recipe's.
    """
    recipe = experiment_recipe(experiment).model_copy(update={"sweep": None})
    mine = {key: value for key, value in settings.items() if key not in NOT_OF_RECIPE}
    return resolved_recipe(recipe, experiment.resolved, mine)


def plan_for(
    context: TickContext,
    recipe: Recipe,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None,
    previous_tokens_per_micro: int | None = None,
) -> Plan:
    """Return the plan of a trial of that prepared experiment; arguments as in planner.plan_trial.

    Raises what plan_trial raises.
    """
    assert experiment.prepared is not None
    return plan_trial(
        recipe,
        experiment.prepared["model"]["config"],
        card,
        free_bytes=free_bytes,
        lengths=known_lengths(recipe, experiment),
        history=_history(context, experiment.id),
        previous_tokens_per_micro=previous_tokens_per_micro,
    )


def check_fits(
    context: TickContext, recipe: Recipe, experiment: Experiment, cards: Iterable[Card]
) -> None:
    """Raise the reason where none of the cards, all of it, takes a trial with that recipe.

    It is the one that `refusal_of_all` names.
    """
    refusal = refusal_of_all(cards, lambda card: plan_for(context, recipe, experiment, card, None))
    if refusal is not None:
        raise refusal


def refusal_of_all(cards: Iterable[Card], plan: Callable[[Card], object]) -> WorkbenchError | None:
    """Return why `plan` refuses every card; None where it takes one, or there is none.

    It is the reason of the roomiest card that is too small, which says more than that another one
    lacks a precision or an attention; else that of the roomiest card.
    """
    refusals: list[WorkbenchError] = []
    for card in sorted(cards, key=lambda card: -card.usable_bytes):
        try:
            plan(card)
        except WorkbenchError as refused:
            refusals.append(refused)
        else:
            return None
    too_small = (one for one in refusals if isinstance(one, DoesNotFit))
    return next(too_small, refusals[0] if refusals else None)


def known_lengths(recipe: Recipe, experiment: Experiment) -> Lengths:
    """Return the lengths of the rows that were prepared, or UNREAD where this trial's differ.

    A trial whose sweep varies `data` settings reads other rows than the experiment's preparation.
    """
    assert experiment.prepared is not None
    data, own = recipe.data.model_dump(mode="json"), experiment.recipe.get("data") or {}
    return trial_lengths(data, own, lengths_of(experiment.prepared["data"]))


def history_version(context: TickContext, experiment: int) -> tuple[object, ...]:
    """Return a value that changes when the history behind an experiment's plans does.

    Remembered plans are keyed by it; the fallback steps only grow, so that their number is enough.
    """
    history = _history(context, experiment)
    return (len(history.fallback_steps), hash(frozenset(history.factors.items())))


def _history(context: TickContext, experiment: int) -> History:
    return History(
        factors=measured_peaks.known_factors(context),
        fallback_steps=oom_fallback.fallback_steps(context, experiment),
    )
