"""The start of an attempt: its rows and files, and its way to the card's worker.

`place` calls it; fault_points marks the moments at which a crash must cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workbench import fault_points
from workbench.attempts.assignment import Assignment
from workbench.fleet.trial_fence import allow_attempt
from workbench.footprint import Plan
from workbench.footprint.plan import summarize_plan
from workbench.machine.cards import Card
from workbench.machine.files import fresh_folder, write_durably
from workbench.scheduler.evaluation.scoring import (
    chat_models,
    score_source,
    scored_beside,
)
from workbench.scheduler.experiment_folder import restore_folder
from workbench.scheduler.plans.remembered_plans import trial_recipe
from workbench.scheduler.tick_context import TickContext, assignment_file
from workbench.store.rows import Experiment, TrialRow
from workbench.trial import DesiredState, Kind, State


def start_attempt(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    plan: Plan,
    others: Sequence[TrialRow],
) -> None:
    """Store attempt, assignment and move in one commit, then send the attempt to its worker.

    The answers of `others` are generated in the same pass. Where sending fails, `reconcile` repeats
    it.
    """
    store, home = context.store, context.home
    fault_points.at("place.before_row")
    with store.writing():
        attempt = store.add_attempt(
            trial.id, card.uuid, plan.to_json(), plan.predicted_bytes, trial.checkpoint_step or 0
        )
        given = _assignment(context, attempt, trial, experiment, card, plan, others)
        # Before anything can be sent: from here on no earlier attempt may write to this trial.
        allow_attempt(home.trial(trial.id), attempt)
        fresh_folder(home.attempt(attempt))  # else another database's attempt would speak for it
        restore_folder(home.experiment(experiment.id), experiment)
        write_durably(assignment_file(home, attempt), json.dumps(given.to_json()).encode())
        why = (
            f"fits {card.uuid} with {plan.predicted_bytes / 2**30:.1f} GiB, {summarize_plan(plan)}"
        )
        store.move(trial.id, State.QUEUED, State.STARTING, by="place", why=why)
        store.steer_trial(trial.id, desired_card=None)
        fault_points.at("place.before_commit")
    if trial.kind is not Kind.TUNE:  # a base may still go by itself
        context.beside |= {one.id: trial.id for one in others}
    fault_points.at("place.after_commit")
    context.fleet.start(card, given)
    fault_points.at("place.after_start")


def _assignment(
    context: TickContext,
    attempt: int,
    trial: TrialRow,
    experiment: Experiment,
    card: Card,
    plan: Plan,
    others: Sequence[TrialRow],
) -> Assignment:
    """Return what the worker is told of the attempt."""
    home = context.home
    return Assignment(
        attempt=attempt,
        trial=trial.id,
        experiment=experiment.id,
        kind=Kind(trial.kind),
        recipe=trial_recipe(trial, experiment).model_dump(mode="json"),
        card=card.to_json(),
        plan=plan.to_json(),
        folder=str(home.attempt(attempt)),
        trial_folder=str(home.trial(trial.id)),
        experiment_folder=str(home.experiment(experiment.id)),
        finish=trial.desired_state is DesiredState.STOP or bool(trial.pruned),
        warm=_warm_start(context, trial),
        finals_of=trial.finals_of,
        score=score_source(context, trial, experiment),
        beside=scored_beside(context, others, experiment),
        chat=chat_models(context, trial),
    )


def _warm_start(context: TickContext, trial: TrialRow) -> dict[str, Any] | None:
    """Return the adapter to start from: {trial, folder, sha256}; None for a fresh one."""
    source = trial.warm_trial
    if source is None:
        return None
    folder = str(context.home.trial(source) / "adapter")
    return {"trial": source, "folder": folder, "sha256": context.store.adapter_sha256(source)}
