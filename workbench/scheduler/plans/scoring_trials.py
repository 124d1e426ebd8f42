"""Plans of trials that train nothing: they score an adapter or the base, or chat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.adapters.subjects import MODELS, scored_adapter, subject_of
from workbench.footprint import Plan
from workbench.footprint.scoring_plan import Beside, adapter_parameters, plan_scoring
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler.plans.oom_fallback import fallback_steps
from workbench.scheduler.plans.planning import known_lengths, recipe_with
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, TrialRow
from workbench.trial import Kind


def is_scored_only(trial: TrialRow, experiment: Experiment) -> bool:
    """Return True for a trial that is planned without training.

    The base of a sweep is planned as its trials are, so that they are scored alike.
    """
    if trial.kind is Kind.BASE:  # one of an evaluation is scored as its adapters are
        return experiment.prepared is not None and "subjects" in experiment.prepared
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
