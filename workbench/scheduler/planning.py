"""How a trial is to run on a card: the planner's choice for the rows there really are, corrected by
what was measured there, on the rung that has not run out of memory."""

from __future__ import annotations

from workbench.footprint import Plan, choose_plan
from workbench.footprint.row_lengths import UNREAD, Lengths, lengths_of
from workbench.machine.cards import Card
from workbench.recipe import Recipe
from workbench.scheduler import measured_peaks, oom_fallback
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment


def plan_for(
    context: TickContext,
    recipe: Recipe,
    experiment: Experiment,
    card: Card,
    free_bytes: int | None,
    cut: int | None = None,
) -> Plan:
    """`cut`: as choose_plan has it. DoesNotFit, or what the recipe or a strange model leads to."""
    assert experiment.prepared is not None
    rows = lengths(recipe, experiment)
    config = experiment.prepared["model"]["config"]

    def make(room: int | None) -> Plan:
        return choose_plan(recipe, config, card, room, **rows, cut=cut)

    plan = measured_peaks.choose(context, make, config, card, free_bytes)
    known = oom_fallback.falls(context, experiment.id)
    lower = oom_fallback.on_its_rung(plan, known, recipe, experiment, card, free_bytes, rows)
    return measured_peaks.corrected(context, lower, config, card)


def lengths(recipe: Recipe, experiment: Experiment) -> Lengths:
    """Of the rows that were prepared; unread where this trial's rows are others."""
    assert experiment.prepared is not None
    same = recipe.data.model_dump(mode="json") == experiment.recipe.get("data")
    return lengths_of(experiment.prepared["data"]) if same else UNREAD


def check_fits(recipe: Recipe, experiment: Experiment, card: Card) -> None:
    """DoesNotFit where the card, all of it, does not take a trial with that recipe."""
    assert experiment.prepared is not None
    config = experiment.prepared["model"]["config"]
    choose_plan(recipe, config, card, **lengths(recipe, experiment))


def record(context: TickContext, experiment: int) -> tuple[object, ...]:
    """Changes when what was learned of this experiment's plans does."""
    factors = measured_peaks.known(context)
    return (len(oom_fallback.falls(context, experiment)), hash(frozenset(factors.items())))
