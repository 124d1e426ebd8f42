"""How a trial is to run on a card: the planner's choice for the rows there really are, corrected by
what was measured there, on the rung that has not run out of memory."""

from __future__ import annotations

from workbench.cards import Card
from workbench.footprint import Plan, choose_plan
from workbench.footprint.lengths import UNREAD, Lengths, lengths_of
from workbench.recipe import Recipe
from workbench.scheduler import ladder, residuals
from workbench.scheduler.desk import Desk
from workbench.store.rows import Experiment


def plan_for(
    desk: Desk,
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

    plan = residuals.choose(desk, make, config, card, free_bytes)
    known = ladder.falls(desk, experiment.id)
    lower = ladder.on_its_rung(plan, known, recipe, experiment, card, free_bytes, rows)
    return residuals.corrected(desk, lower, config, card)


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


def record(desk: Desk, experiment: int) -> tuple[object, ...]:
    """Changes when what was learned of this experiment's plans does."""
    factors = residuals.known(desk)
    return (len(ladder.falls(desk, experiment)), hash(frozenset(factors.items())))
