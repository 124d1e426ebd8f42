"""Trials that train nothing: which adapter each one scores, its recipe and its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.adapters.subjects import ADAPTER, MODELS, ROWS, scored_adapter, subject_of
from workbench.errors import UsageError
from workbench.fleet.trial_fence import live_attempt
from workbench.footprint import Plan
from workbench.footprint.scoring_plan import Beside, adapter_parameters, plan_scoring
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler.plans.oom_fallback import fallback_steps
from workbench.scheduler.plans.planning import known_lengths, recipe_with
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, TrialRow
from workbench.store.score_trials import saved_adapter
from workbench.trial import Kind


def is_evaluation(experiment: Experiment) -> bool:
    """Return True for a prepared experiment that scores adapters and trains none."""
    return experiment.prepared is not None and "subjects" in experiment.prepared


def is_scored_only(trial: TrialRow, experiment: Experiment) -> bool:
    """Return True for a trial that is planned without training.

    The base of a sweep is planned as its trials are, so that they are scored alike.
    """
    if trial.kind is Kind.BASE:
        return is_evaluation(experiment)
    return trial.kind in (Kind.SCORE, Kind.CHAT)


def scoring_plan(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    recipe: Recipe,
    card: Card,
    free_bytes: int | None,
    beside: Sequence[TrialRow] = (),
    lanes: int = 0,
) -> Plan:
    """Return the plan of scoring; arguments as in `planning.plan_for`, errors of `plan_scoring`.

    The trials `beside` are answered in the same pass, `lanes` rows at once.
    """
    assert experiment.prepared is not None
    config = experiment.prepared["model"]["config"]
    others = sum(_parameters(context, one, experiment, config) for one in beside)
    return plan_scoring(
        recipe,
        config,
        card,
        free_bytes=free_bytes,
        lengths=known_lengths(recipe, experiment),
        adapter_parameters=_parameters(context, trial, experiment, config),
        ran_out=fallback_steps(context, experiment.id),
        beside=Beside(parameters=others, lanes=lanes) if beside else None,
    )


def _parameters(
    context: TickContext, trial: TrialRow, experiment: Experiment, config: Mapping[str, Any]
) -> int:
    """Return the number of values of the trial's adapters; 0 for the base alone."""
    if trial.kind is Kind.CHAT:
        models = [context.store.trial(id) for id in trial.settings[MODELS] if id is not None]
        return sum(_adapter_parameters(context, model, experiment, config) for model in models)
    return _adapter_parameters(context, trial, experiment, config)


def _adapter_parameters(
    context: TickContext, trial: TrialRow, experiment: Experiment, config: Mapping[str, Any]
) -> int:
    adapter = trial.id if trial.kind is Kind.TUNE else scored_adapter(trial.settings)
    if adapter is None:
        return 0
    if isinstance(adapter, str):
        assert experiment.prepared is not None
        return int(subject_of(experiment.prepared, adapter).get("parameters") or 0)
    source = context.store.trial(adapter)
    theirs = recipe_with(context.store.experiment(source.experiment), source.settings)
    return adapter_parameters(config, theirs.lora)


def score_source(
    context: TickContext, trial: TrialRow, experiment: Experiment
) -> dict[str, Any] | None:
    """Return what a score trial scores, as `Assignment.score` has it; None for other trials."""
    if trial.kind is not Kind.SCORE:
        return None
    adapter, rows = scored_adapter(trial.settings), trial.settings.get(ROWS, "eval")
    if adapter is None:
        return {"rows": rows}
    if isinstance(adapter, str):
        return {**subject_of(experiment.prepared or {}, adapter), "folder": adapter, "rows": rows}
    source: dict[str, Any] = {"trial": adapter, "rows": rows}
    saved = saved_adapter(context.store, adapter)
    if saved is None:
        error = f"trial {adapter} has no adapter any more"
        return {**source, "folder": "", "error": error, "hint": "evaluate another trial"}
    about = {"folder": str(saved.folder), "sha256": saved.sha256, "step": saved.step}
    return {**source, **about}


def scored_beside(
    context: TickContext, others: Sequence[TrialRow], experiment: Experiment
) -> list[dict[str, Any]] | None:
    """Return the trials beside another as `Assignment.beside` has them; None without any."""
    found = []
    for one in others:
        source = score_source(context, one, experiment) or {"rows": "eval"}
        folder = context.home.trial(one.id)
        found.append({**source, "trial_folder": str(folder), "live": live_attempt(folder)})
    return found or None


def chat_models(context: TickContext, trial: TrialRow) -> list[dict[str, Any] | None] | None:
    """Return the models of a chat, as `Assignment.chat` has them; None for other trials."""
    if trial.kind is not Kind.CHAT:
        return None
    models: list[dict[str, Any] | None] = []
    for id in trial.settings[MODELS]:
        try:
            models.append(None if id is None else chat_model(context, context.store.trial(id)))
        except UsageError:  # gone since it was asked for: the worker says so, not the tick
            models.append({"trial": id, "folder": ""})
    return models


def chat_model(context: TickContext, trial: TrialRow) -> dict[str, Any] | None:
    """Return {trial, folder, sha256} of the adapter that a trial left or scored; None for a base.

    Raises UsageError for a trial that has left no adapter.
    """
    adapter = trial.id if trial.kind is Kind.TUNE else scored_adapter(trial.settings)
    if adapter is None:
        return None
    if isinstance(adapter, str):
        return {"trial": trial.id, "folder": adapter}
    saved = saved_adapter(context.store, adapter)
    if saved is None:
        raise UsageError(
            f"trial {adapter} has left no adapter ({context.store.trial(adapter).state})",
            hint="choose one of the board: workbench board",
        )
    return {"trial": trial.id, "folder": str(saved.folder), "sha256": saved.sha256}


def score_settings(adapter: int | str | None, rows: str) -> dict[str, object]:
    """Return the settings of a score trial of that adapter on `eval` or `test` rows."""
    return {ADAPTER: adapter, ROWS: rows}
