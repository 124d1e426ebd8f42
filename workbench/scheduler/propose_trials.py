"""Queueing of an experiment: prepare, resolve what all its trials share, add its trials."""

from __future__ import annotations

from typing import Any

from workbench import fault_points, search
from workbench.errors import WorkbenchError
from workbench.footprint import History
from workbench.footprint.row_lengths import lengths_of
from workbench.footprint.sweeps.resolve_once import resolve_once, shared_precision
from workbench.formatting import plural
from workbench.machine.cards import Card
from workbench.recipe import early_stop_problem_for
from workbench.scheduler.evaluation.enqueue_scores import enqueue_scores
from workbench.scheduler.evaluation.known_scores import known_base
from workbench.scheduler.finals import propose_finals
from workbench.scheduler.plans.measured_peaks import known_factors
from workbench.scheduler.plans.planning import experiment_recipe
from workbench.scheduler.sweeps import ask_for_more
from workbench.scheduler.tick_context import TickContext
from workbench.store import Blocked, trial_queue
from workbench.store.rows import Experiment, card_of
from workbench.text import safe_line
from workbench.trial import Kind


def propose_trials(context: TickContext) -> None:
    """Prepare the oldest experiment, then ask sweeps for their next trials and begin finals."""
    if context.stopping:
        return
    _prepare_oldest(context)
    ask_for_more(context)  # also for what has just been prepared
    propose_finals(context)


def _prepare_oldest(context: TickContext) -> None:
    """Ask after the preparation of the oldest experiment; queue its trials once it has ended."""
    preparing = trial_queue.preparing_experiments(context.store)
    for experiment in preparing:
        cards = [card_of(row) for row in context.cards if row.present]
        if not cards:
            return
        try:
            result = context.preparer.poll(experiment.id, [one.id for one in preparing[1:]])
            if result is not None:
                enqueue_trials(context, experiment, result, cards)
        except Blocked:  # the disk's or a lock's fault, not the experiment's
            raise
        except WorkbenchError as refused:
            _refuse(context, experiment, refused.what, refused.hint)
        except Exception as broken:
            why = f"it could not be queued: {type(broken).__name__}: {safe_line(broken)}"
            _refuse(context, experiment, why, "submit its recipe again")
        return


def enqueue_trials(
    context: TickContext, experiment: Experiment, result: dict[str, Any], cards: list[Card]
) -> None:
    """Queue the trials of a prepared experiment, or refuse it for the preparation's reason.

    `result` is what the preparation left; `cards` decide the precision and the optimizer.
    """
    if not result.get("ok"):
        _refuse(context, experiment, str(result.get("error")), str(result.get("hint") or ""))
        return
    recipe = experiment_recipe(experiment)
    if "subjects" in result:
        enqueue_scores(context, experiment, result, cards, shared_precision(recipe, cards))
        return
    history = History(factors=known_factors(context))
    lengths = lengths_of(result["data"])
    resolved = resolve_once(recipe, result["model"]["config"], cards, lengths, history)
    sweep = recipe.sweep
    one_by_one = search.is_one_by_one(sweep)
    settings = [] if one_by_one else search.initial_points(recipe)
    with context.store.writing():
        base = known_base(context, experiment, result, resolved)
        if base is None:
            base = context.add_trial(experiment.id, Kind.BASE, {})
        for point in settings:
            context.add_trial(experiment.id, Kind.TUNE, point)
        context.store.mark_ready(experiment.id, result, resolved, base)
        if sweep is not None and (one_by_one or sweep.hours or sweep.gpu_hours):
            most = sweep.trials if one_by_one else None
            context.store.set_searching(experiment.id, on=True, most_trials=most)
        begins = "its sweep begins" if one_by_one else f"{plural(len(settings), 'trial')} queued"
        text = f"experiment {experiment.name}: {begins}"
        context.store.note("ready", text, experiment=experiment.id)
        if problem := early_stop_problem_for(recipe, int(result["data"]["train_rows"])):
            text = f"no trial will be stopped early: {problem}"
            context.store.note("search", text, level="warning", experiment=experiment.id)
        for note in result.get("notes", []):
            context.store.note("data", str(note), level="warning", experiment=experiment.id)
        fault_points.at("propose_trials.before_commit")
    fault_points.at("propose_trials.after_commit")


def _refuse(context: TickContext, experiment: Experiment, reason: str, hint: str) -> None:
    """Record in one commit that the experiment cannot run, and report it."""
    with context.store.writing():
        context.store.mark_refused(experiment.id, reason, hint)
        context.store.note(
            "refused",
            f"experiment {experiment.name} was refused: {reason}",
            level="error",
            experiment=experiment.id,
        )
