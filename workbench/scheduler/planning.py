"""How a trial is to run on a card: the planner's choice for the rows there really are, corrected by
what was measured there, on the rung that has not run out of memory."""

from __future__ import annotations

from typing import Any

from workbench.cards import Card
from workbench.footprint import Plan, choose_plan
from workbench.recipe import Recipe
from workbench.scheduler import ladder, residuals
from workbench.scheduler.desk import Desk
from workbench.store.rows import Experiment


def plan_for(
    desk: Desk, recipe: Recipe, experiment: Experiment, card: Card, free_bytes: int | None
) -> Plan:
    """DoesNotFit, or what the recipe or a strange model leads to."""
    assert experiment.prepared is not None
    tokens = longest(recipe, experiment)
    config = experiment.prepared["model"]["config"]
    mean = experiment.prepared["data"].get("mean_length") if tokens else None

    def make(room: int | None) -> Plan:
        return choose_plan(recipe, config, card, room, longest=tokens, mean=mean)

    plan = residuals.choose(desk, make, config, card, free_bytes)
    known = ladder.falls(desk, experiment.id)
    lower = ladder.on_its_rung(plan, known, recipe, experiment, card, free_bytes, tokens)
    return residuals.corrected(desk, lower, config, card)


def longest(recipe: Recipe, experiment: Experiment) -> int | None:
    """Tokens of the longest row that was prepared; None where this trial's rows are others."""
    assert experiment.prepared is not None
    data: dict[str, Any] = experiment.prepared["data"]
    same = recipe.data.model_dump(mode="json") == experiment.recipe.get("data")
    found = data.get("longest") or data.get("max_length")
    return int(found) if same and found else None


def record(desk: Desk, experiment: int) -> tuple[object, ...]:
    """Changes when what was learned of this experiment's plans does."""
    factors = residuals.known(desk)
    return (len(ladder.falls(desk, experiment)), hash(frozenset(factors.items())))
