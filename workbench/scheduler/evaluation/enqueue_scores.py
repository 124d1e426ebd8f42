"""Queueing of an evaluation: a score trial for each adapter, and the base to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from workbench import fault_points
from workbench.errors import WorkbenchError
from workbench.footprint.peak.scoring_bytes import smallest_batch
from workbench.footprint.row_lengths import lengths_of
from workbench.footprint.scoring_plan import plan_scoring
from workbench.formatting import plural
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler.evaluation.known_scores import known_base, known_score, take_over_score
from workbench.scheduler.evaluation.scoring import score_settings
from workbench.scheduler.plans.planning import experiment_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment
from workbench.trial import Kind


def enqueue_scores(
    context: TickContext,
    experiment: Experiment,
    result: dict[str, Any],
    cards: Sequence[Card],
    precision: str,
) -> None:
    """Queue the score trials of a prepared evaluation.

    `result` is what the preparation left, `precision` what its trials are scored in. An adapter
    that was scored on the same rows is not scored again.
    """
    recipe = experiment_recipe(experiment)
    resolved = {
        "model.precision": precision,
        "evaluate.batch_size": _rows_at_once(recipe, result, cards, precision),
    }
    ready = replace(experiment, prepared=result, resolved=resolved)
    reused = 0
    with context.store.writing():
        base = known_base(context, experiment, result, resolved)
        if base is None:
            base = context.add_trial(experiment.id, Kind.BASE, {})
        context.store.mark_ready(experiment.id, result, resolved, base)
        for one in result["subjects"]:
            adapter = one.get("trial", one.get("folder"))
            id = context.add_trial(experiment.id, Kind.SCORE, score_settings(adapter, "eval"))
            source = known_score(context, ready, adapter)
            if source is not None and take_over_score(context, id, source):
                reused += 1
        context.store.note("ready", _words(experiment, result, reused), experiment=experiment.id)
        for note in result.get("notes", []):
            context.store.note("data", str(note), level="warning", experiment=experiment.id)
        fault_points.at("enqueue_scores.before_commit")
    fault_points.at("enqueue_scores.after_commit")


def _words(experiment: Experiment, result: dict[str, Any], reused: int) -> str:
    count = len(result["subjects"])
    text = f"experiment {experiment.name}: {plural(count, 'adapter')} to score"
    if reused:
        text += f", of which {reused} {'was' if reused == 1 else 'were'} scored on the same rows "
        text += "before: those scores are reused"
    return text


def _rows_at_once(
    recipe: Recipe, result: dict[str, Any], cards: Sequence[Card], precision: str
) -> int:
    """Return the rows that can be scored at once on every card that can score at all.

    In 16 bits the size of a batch decides the last digits of a score.
    """
    model = recipe.model.model_copy(update={"precision": precision})
    resolved = recipe.model_copy(update={"model": model, "sweep": None})
    most = max((int(one.get("parameters") or 0) for one in result["subjects"]), default=0)
    sizes = []
    for card in cards:
        with suppress(WorkbenchError):
            plan = plan_scoring(
                resolved,
                result["model"]["config"],
                card,
                lengths=lengths_of(result["data"]),
                adapter_parameters=most,
            )
            sizes.append(plan.eval_batch)
    return min(sizes, default=smallest_batch(recipe))
