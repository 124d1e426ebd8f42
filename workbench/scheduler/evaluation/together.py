"""Score trials that wait and can be answered in one pass with the one that is placed.

Few rows leave a card half idle: a step of 64 rows of an 8B took 6.5 ms, one of 256 rows 11
(docs/decode.md), so that four adapters of 64 rows are answered in the time of two. With many rows
the gain is what the last ones of each adapter leave free, and one capture of steps instead of many.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from workbench.adapters.subjects import ROWS
from workbench.errors import WorkbenchError
from workbench.footprint import Plan
from workbench.footprint.peak.scoring_bytes import MOST_LANES
from workbench.machine.cards import Card, is_elsewhere
from workbench.recipe import Recipe
from workbench.scheduler.plans.oom_fallback import fallback_steps
from workbench.scheduler.plans.planning import experiment_recipe
from workbench.scheduler.plans.remembered_plans import trial_recipe
from workbench.scheduler.plans.scoring_trials import is_scored_only, scoring_plan
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, TrialRow
from workbench.trial import Kind

MOST_ADAPTERS = 8
"""Adapters in one pass: each adds its columns to every row's products."""
MOST_ROWS = 4 * MOST_LANES
"""Rows in one pass. More gain little, and keep the trials beside from cards that become free."""


def plan_together(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    plan: Plan,
    free_bytes: int | None,
    waiting: Sequence[TrialRow],
) -> tuple[Plan, list[TrialRow]]:
    """Return the plan of one pass, and the trials of `waiting` that are in it.

    They are as many as fit with as many rows at once as the trial alone has, which `plan` says;
    that plan and none where no pass of several gains.
    """
    recipe = trial_recipe(trial, experiment)
    if not _can_lead(context, trial, experiment, recipe, card):
        return plan, []
    rows = _row_count(experiment, trial)
    others = [one for one in waiting if _is_like(one, trial, card)]
    others = others[: max(0, min(MOST_ADAPTERS, MOST_ROWS // rows) - 1)]
    asked = experiment_recipe(experiment).evaluate.batch_size
    cap = MOST_LANES if asked == "auto" else asked
    while others:
        lanes = min(cap, rows * (1 + len(others)))
        with suppress(WorkbenchError):
            made = scoring_plan(
                context, trial, experiment, recipe, card, free_bytes, beside=others, lanes=lanes
            )
            if made.eval_lanes:
                return made, others
        others = others[: len(others) // 2]
    return plan, []


def _can_lead(
    context: TickContext, trial: TrialRow, experiment: Experiment, recipe: Recipe, card: Card
) -> bool:
    """Return whether answers may be generated for others beside this trial.

    Not on another machine of a cluster, which has no files of other trials, and not after an
    attempt of the experiment ran out of memory.
    """
    if trial.kind is Kind.CHAT or not is_scored_only(trial, experiment):
        return False
    generates = bool(recipe.evaluate.scorers) and recipe.evaluate.task is None
    return generates and not is_elsewhere(card.uuid) and not fallback_steps(context, experiment.id)


def _is_like(one: TrialRow, trial: TrialRow, card: Card) -> bool:
    """Return whether a queued trial is scored on the same rows, and may run on that card."""
    scores = one.kind in (Kind.SCORE, Kind.BASE) and one.experiment == trial.experiment
    return scores and _rows_of(one) == _rows_of(trial) and one.desired_card in (None, card.uuid)


def _rows_of(trial: TrialRow) -> str:
    return str(trial.settings.get(ROWS, "eval"))


def _row_count(experiment: Experiment, trial: TrialRow) -> int:
    data = (experiment.prepared or {}).get("data") or {}
    return int(data.get(f"{_rows_of(trial)}_rows") or 0) or MOST_ROWS


def forget_ended(context: TickContext) -> None:
    """Place trials again that waited beside one which does not run any more."""
    running = {row.trial for row in context.cards}
    context.beside = {one: of for one, of in context.beside.items() if of in running}


def left_to_wait(
    context: TickContext, queued: Sequence[TrialRow], placed: Collection[int], cards: int
) -> list[TrialRow]:
    """Return the queued trials that may wait beside one that is placed now, in their order.

    Of those that were not placed and wait beside none, every one that another of the `cards` free
    cards will take is left out.
    """
    found = [one for one in queued if one.id not in placed and one.id not in context.beside]
    return found[cards - 1 :: cards]
