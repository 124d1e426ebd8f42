"""Trials that train nothing: which adapters each one scores, or chats with, for its assignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.adapters.subjects import ADAPTER, MODELS, ROWS, scored_adapter, subject_of
from workbench.errors import UsageError
from workbench.fleet.trial_fence import live_attempt
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, TrialRow
from workbench.store.score_trials import saved_adapter
from workbench.trial import Kind


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
