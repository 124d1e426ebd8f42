"""Queueing of an experiment: prepare, resolve what all its trials share, add its trials."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from workbench import fault_points, search
from workbench.errors import WorkbenchError
from workbench.footprint import NO_HISTORY, History, plan_trial
from workbench.footprint.oom_fallback import hardware_key
from workbench.footprint.peak.scoring_bytes import smallest_batch
from workbench.footprint.plan import Plan
from workbench.footprint.row_lengths import UNREAD, Lengths, lengths_of
from workbench.footprint.worst_case import worst_case_recipe
from workbench.formatting import plural
from workbench.machine.cards import Card
from workbench.machine.files import fresh_folder
from workbench.recipe import Recipe, apply_settings, early_stop_problem_for
from workbench.scheduler.evaluation.enqueue_scores import enqueue_scores
from workbench.scheduler.evaluation.known_scores import known_base
from workbench.scheduler.finals import propose_finals
from workbench.scheduler.plans.measured_peaks import known_factors
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
    recipe = Recipe.model_validate_json(json.dumps(experiment.recipe))
    if "subjects" in result:
        enqueue_scores(context, experiment, result, cards, _precision(recipe, cards))
        return
    history = History(factors=known_factors(context))
    lengths = lengths_of(result["data"])
    resolved = resolve_once(recipe, result["model"]["config"], cards, lengths, history)
    sweep = recipe.sweep
    bit_by_bit = search.is_one_by_one(sweep)
    settings = [] if bit_by_bit else search.initial_points(recipe)
    with context.store.writing():
        base = known_base(context, experiment, result, resolved)
        if base is None:
            base = _add(context, experiment.id, 0, Kind.BASE, {})
        for number, point in enumerate(settings, start=1):
            _add(context, experiment.id, number, Kind.TUNE, point)
        context.store.mark_ready(experiment.id, result, resolved, base)
        if sweep is not None and (bit_by_bit or sweep.hours or sweep.gpu_hours):
            most = sweep.trials if bit_by_bit else None
            context.store.set_searching(experiment.id, on=True, most_trials=most)
        context.store.note(
            "ready",
            f"experiment {experiment.name}: "
            + ("its sweep begins" if bit_by_bit else f"{plural(len(settings), 'trial')} queued"),
            experiment=experiment.id,
        )
        unstopped = early_stop_problem_for(recipe, int(result["data"]["train_rows"]))
        if unstopped:
            text = f"no trial will be stopped early: {unstopped}"
            context.store.note("search", text, level="warning", experiment=experiment.id)
        for note in result.get("notes", []):
            context.store.note("data", str(note), level="warning", experiment=experiment.id)
        fault_points.at("propose_trials.before_commit")
    fault_points.at("propose_trials.after_commit")


def resolve_once(
    recipe: Recipe,
    config: dict[str, Any],
    cards: list[Card],
    lengths: Lengths = UNREAD,
    history: History = NO_HISTORY,
) -> dict[str, Any]:
    """Return precision, optimizer and rows scored at once for all trials of an experiment.

    They keep the trials comparable: bf16 only when every GPU here has it (compute capability 8.0),
    else fp16, which all have; the optimizer of fewer bytes as soon as one card needs it for the
    largest trial of the sweep that fits there; as many rows at once as such trials can score on
    each card.
    """
    cards = list({(hardware_key(card), card.capability): card for card in cards}.values())
    settings: dict[str, Any] = {"model.precision": _precision(recipe, cards)}
    settings["train.optimizer"] = recipe.train.optimizer
    if recipe.train.optimizer == "auto":
        plans = _largest_plans(recipe, settings, config, cards, lengths, history)
        needed = any(plan.optimizer == "paged_adamw_8bit" for plan in plans)
        settings["train.optimizer"] = "paged_adamw_8bit" if needed else "adamw_torch"
    # In 16 bits the size of a batch decides the last digits of a loss, and now and then an answer.
    plans = _largest_plans(recipe, settings, config, cards, lengths, history)
    fewest = min((plan.eval_batch for plan in plans), default=smallest_batch(recipe))
    return {**settings, "evaluate.batch_size": fewest}


def _precision(recipe: Recipe, cards: list[Card]) -> str:
    if recipe.model.precision != "auto":
        return recipe.model.precision
    # A trial may resume on any card of the home, so the weakest one decides.
    capabilities = [card.capability for card in cards if card.capability]
    if not capabilities:
        return "fp32"
    return "bf16" if min(capabilities) >= (8, 0) else "fp16"


def _largest_plans(
    recipe: Recipe,
    settings: dict[str, Any],
    config: dict[str, Any],
    cards: list[Card],
    lengths: Lengths,
    history: History,
) -> list[Plan]:
    """Return for each card the plan of the sweep's largest trial, or that of the recipe itself.

    A card that is too small for the largest trial still takes others; one that takes neither has no
    plan here.
    """
    recipe = apply_settings(recipe, settings).model_copy(update={"sweep": recipe.sweep})
    plans = []
    for card in cards:
        largest, _ = worst_case_recipe(recipe, config, card)
        for one in (largest, recipe):
            with suppress(WorkbenchError):
                plans.append(
                    plan_trial(one, config, card, lengths=lengths, history=history, advise=False)
                )
                break
    return plans


def _refuse(context: TickContext, experiment: Experiment, reason: str, hint: str) -> None:
    with context.store.writing():
        context.store.mark_refused(experiment.id, reason, hint)
        context.store.note(
            "refused",
            f"experiment {experiment.name} was refused: {reason}",
            level="error",
            experiment=experiment.id,
        )


def _add(
    context: TickContext, experiment: int, number: int, kind: Kind, settings: dict[str, object]
) -> int:
    trial = context.store.add_trial(experiment, number, kind, settings)
    fresh_folder(context.home.trial(trial))
    return trial
