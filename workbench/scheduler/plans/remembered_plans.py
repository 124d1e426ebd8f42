"""Plans of queued trials, remembered: planning is pure, and each tick asks the same."""

from __future__ import annotations

import json

from workbench.errors import DoesNotFit, EngineError, WorkbenchError
from workbench.footprint import Plan
from workbench.footprint.sweeps.worst_case import affects_bytes
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler.plans.planning import (
    history_version,
    plan_for,
    recipe_with,
    refusal_of_all,
)
from workbench.scheduler.plans.scoring_trials import is_scored_only, scoring_plan
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of
from workbench.text import safe_line
from workbench.trial import Kind

PLANS_A_TICK = 24
"""New plans made in one tick, at 2 to 12 ms each; the rest of the queue waits for the next tick."""
PLANS_KEPT = 8_192
"""Plans remembered; beyond that all of them are forgotten and made again."""
ROOM_STEP_BYTES = 1 << 26
"""Step to which a card's free bytes are rounded down, because they never stand still and each value
would need a plan of its own.
"""


def like_key(trial: TrialRow) -> str:
    """Return a key that is equal for trials which fit the same cards."""
    settings = {key: value for key, value in trial.settings.items() if affects_bytes(key)}
    return json.dumps([trial.experiment, trial.kind, trial.desired_card, settings], sort_keys=True)


def could_take(context: TickContext, trial: TrialRow, experiment: Experiment, row: CardRow) -> bool:
    """Return True when the trial would fit this card if the whole card were free."""
    try:
        remembered_plan(context, trial, experiment, card_of(row), None)
    except WorkbenchError:
        return False
    return True


def no_card_error(
    context: TickContext, trial: TrialRow, experiment: Experiment
) -> WorkbenchError | None:
    """Return why no card that is present takes the trial, all of it free; None where one does."""
    cards = [card_of(row) for row in context.cards if row.present]
    return refusal_of_all(
        cards, lambda card: remembered_plan(context, trial, experiment, card, None)
    )


def trial_recipe(trial: TrialRow, experiment: Experiment) -> Recipe:
    """Return the experiment's recipe with what was resolved once and this trial's own settings."""
    return recipe_with(experiment, trial.settings)


def remembered_plan(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None,
    previous_tokens_per_micro: int | None = None,
) -> Plan:
    """Return the plan of this trial on this card, remembered by all that decides it.

    `free_bytes` None plans for the whole card. `previous_tokens_per_micro` is that of
    `planner.plan_trial`; it does not decide whether a plan exists. Raises what plan_trial raises,
    and EngineError for what an older workbench's recipe or a strange model led to.
    """
    room = None if free_bytes is None else free_bytes // ROOM_STEP_BYTES * ROOM_STEP_BYTES
    settings = json.dumps(trial.settings, sort_keys=True)
    version = history_version(context, experiment.id)
    key = (
        experiment.id,
        trial.kind,
        settings,
        previous_tokens_per_micro,
        card.plan_key,
        room,
        *version,
    )
    if key not in context.plans:
        try:
            context.plans[key] = _new_plan(
                context, trial, experiment, card, room, previous_tokens_per_micro
            )
        except WorkbenchError as refused:
            context.plans[key] = refused.with_traceback(None)
        except Exception as broken:
            context.plans[key] = EngineError(
                f"it cannot be planned: {type(broken).__name__}: {safe_line(broken)}",
                hint="submit its recipe again",
            )
    found = context.plans[key]
    if isinstance(found, WorkbenchError):  # a new one: each raising makes a traceback longer
        raise type(found)(found.what, hint=found.hint)
    assert isinstance(found, Plan)
    return found


def _new_plan(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None,
    previous_tokens_per_micro: int | None,
) -> Plan:
    """Return the plan of the trial; arguments and errors as in `remembered_plan`.

    The base of a sweep is planned with the recipe's own values, which may be none of the sweep's:
    where no card could train with them, it is planned as what it does, which is scoring.
    """
    recipe = trial_recipe(trial, experiment)
    if is_scored_only(trial, experiment):
        return scoring_plan(context, trial, experiment, recipe, card, free_bytes)
    try:
        return plan_for(context, recipe, experiment, card, free_bytes, previous_tokens_per_micro)
    except DoesNotFit:
        of_sweep = trial.kind is Kind.BASE and experiment.recipe.get("sweep")
        cards = map(card_of, context.cards)
        if not of_sweep or not refusal_of_all(
            cards, lambda card: plan_for(context, recipe, experiment, card, None)
        ):
            raise
    return scoring_plan(context, trial, experiment, recipe, card, free_bytes)
