"""Handlers that create trials and experiments: submit, clone, extend, add."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from workbench import search
from workbench.errors import DoesNotFit, UsageError
from workbench.machine.files import fresh_folder, sync_path, write_durably
from workbench.recipe import Recipe
from workbench.recipe.space import grid_points
from workbench.scheduler import sweeps
from workbench.scheduler.handlers import accepted
from workbench.scheduler.handlers.queue import whole_number
from workbench.scheduler.handlers.trials import tuned_trial
from workbench.scheduler.handlers.warm_start import find_warm_trial, warm_words
from workbench.scheduler.plans.planning import (
    check_fits,
    experiment_recipe,
    recipe_with,
    unresolved_recipe,
)
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Experiment, RequestAnswer, card_of
from workbench.store.score_trials import check_it_is_no_evaluation
from workbench.text import safe_line
from workbench.trial import Kind

SHARED = ("lora.", "train.", "data.group_by_length")
"""Settings in which trials of one experiment may differ: they train on the same rows and are scored
on the same ones, against the same base. An experiment's own sweep may name others.
"""


def submit_recipe(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Create an experiment from a recipe; it is prepared next."""
    recipe = submitted_recipe(args)
    warm = find_warm_trial(context, args.get("warm_trial"), recipe)
    id, name = new_experiment(context, recipe, warm)
    asked = safe_line(recipe.name, 80)
    taken = f" ({asked} is the name of an earlier one)" if name != asked else ""
    text = f"experiment {name} is being prepared{taken}{warm_words(warm)}"
    return accepted(text, experiment=id, name=name)


def submitted_recipe(args: dict[str, Any]) -> Recipe:
    """Return the recipe of a request; UsageError where it is not valid."""
    try:
        return Recipe.model_validate_json(json.dumps(args["recipe"]))
    except ValidationError as wrong:
        raise UsageError(f"the recipe is not valid: {wrong.errors()[0]['msg']}") from wrong


def new_experiment(
    context: TickContext,
    recipe: Recipe,
    warm: int | None,
    fill: Callable[[Path], object] = lambda folder: None,
) -> tuple[int, str]:
    """Add an experiment with its folder, where `fill` may write more; return its id and name."""
    id = context.store.add_experiment(recipe.model_dump(mode="json"), recipe.rank_by, warm)
    name = context.store.experiment(id).name
    folder = fresh_folder(context.home.experiment(id))
    fill(folder)
    write_durably(folder / "recipe.json", recipe.model_dump_json(indent=2).encode())
    sync_path(folder.parent)  # else the row may outlive the folder when the power goes
    context.store.note("submitted", f"experiment {name} was submitted", experiment=id)
    return id, name


def clone_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Create the same trial with other settings.

    It joins the experiment where the two can be compared, and else gets one of its own.
    """
    source = tuned_trial(context, args["trial"])
    experiment = context.store.experiment(source.experiment)
    edits = dict(args.get("settings") or {})
    recipe = unresolved_recipe(experiment, {**source.settings, **edits})
    warm = find_warm_trial(context, args.get("warm_trial", source.warm_trial), recipe)
    apart = sorted(key for key in edits if not _shared(key, experiment))
    if apart:
        id, name = new_experiment(context, recipe, warm)
        text = (
            f"trial {source.id} is cloned into a new experiment, {name}: with another "
            f"{safe_line(', '.join(apart), 120)} its scores could not be compared in "
            f"{experiment.name}; its data is checked first{warm_words(warm)}"
        )
        return accepted(text, experiment=id, name=name)
    id = _add(context, experiment, {**source.settings, **edits}, warm)
    same = "so the same numbers" if warm == source.warm_trial else "from other weights"
    changed = "with " + _words(edits) if edits else f"with the same settings, {same}"
    text = (
        f"trial {id} is trial {source.id} again, {changed}; it {_when(context)}{warm_words(warm)}"
    )
    return accepted(text, trial=id, experiment=experiment.id, name=experiment.name)


def extend_trial(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Create a trial that trains on from an ended trial's adapter, for more epochs or steps."""
    source = tuned_trial(context, args["trial"])
    if not source.state.final:
        raise UsageError(
            f"trial {source.id} is {source.state}; only what has ended can be extended",
            hint=f"wait for its end, or `workbench clone {source.id} -s train.epochs=…`",
        )
    experiment = context.store.experiment(source.experiment)
    before = unresolved_recipe(experiment, source.settings)
    more = _more(args)
    seed = (before.train.seed + 1) % 2**32  # else the rows would come in the same order again
    settings = {**source.settings, **more, "train.seed": seed}
    warm = find_warm_trial(context, source.id, unresolved_recipe(experiment, settings))
    id = _add(context, experiment, settings, warm)
    amount = _words({key: value for key, value in more.items() if value is not None})
    text = (
        f"trial {id} trains on from the adapter of trial {source.id} with {amount}; it "
        f"{_when(context)}. A warm start: the weights go on, optimizer and schedule begin again "
        f"({before.train.schedule}, warm-up included), rows come in another order"
    )
    return accepted(text, trial=id, experiment=experiment.id, name=experiment.name)


def _more(args: dict[str, Any]) -> dict[str, Any]:
    """Return how much longer to train, as settings of a trial that begins at step 0."""
    steps, epochs = args.get("steps"), args.get("epochs")
    if (steps is None) == (epochs is None):
        raise UsageError("say how much longer", hint="--epochs +1, or --steps +100")
    if steps is not None:
        return {"train.max_steps": whole_number(steps, 1, 10**9, "how many steps more")}
    longer = float(epochs)  # type: ignore[arg-type]
    if not 0 < longer < math.inf:
        raise UsageError(f"{longer:g} epochs more is no training", hint="--epochs +1, or +0.5")
    return {"train.epochs": longer, "train.max_steps": None}


def add_trials(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Add a trial with given settings, or so many more of what the sweep would try next."""
    experiment = context.store.experiment(args["experiment"])
    name = safe_line(experiment.name)
    if experiment.state != "ready":
        raise UsageError(
            f"experiment {name} is {experiment.state}: it has no trials to add to",
            hint="wait until it is ready" if experiment.state == "preparing" else experiment.hint,
        )
    check_it_is_no_evaluation(context.home.experiment(experiment.id), experiment.name)
    if args.get("trials") is not None:
        return _more_of_sweep(
            context, experiment, whole_number(args["trials"], 1, search.MAX_TRIALS, "how many more")
        )
    settings = dict(args.get("settings") or {})
    apart = sorted(key for key in settings if not _shared(key, experiment))
    if apart:
        raise UsageError(
            f"{safe_line(', '.join(apart), 120)}: trials that differ in it could not be compared "
            f"in experiment {name}",
            hint="submit it as an experiment of its own: `workbench clone TRIAL -s …`",
        )
    recipe = unresolved_recipe(experiment, settings)
    warm = find_warm_trial(context, args.get("warm_trial") or experiment.warm_trial, recipe)
    id = _add(context, experiment, settings, warm)
    text = f"trial {id} was added to {name}, with {_words(settings) or 'the recipe as it is'}; it "
    text += f"{_when(context)}{warm_words(warm)}"
    return accepted(text, trial=id, experiment=experiment.id, name=name)


def _more_of_sweep(context: TickContext, experiment: Experiment, count: int) -> RequestAnswer:
    """Let the sweep draw `count` more trials; UsageError where it cannot."""
    recipe = experiment_recipe(experiment)
    if recipe.sweep is None:
        raise UsageError(
            f"experiment {experiment.name} has no sweep to draw more trials from",
            hint=f"workbench add {experiment.id} -s train.learning_rate=1e-4",
        )
    if why := sweeps.budget_spent(context, experiment, recipe):
        raise UsageError(
            f"experiment {experiment.name} draws no more: {why}",
            hint=f"name a trial yourself: workbench add {experiment.id} -s KEY=VALUE",
        )
    if recipe.sweep.method == "grid":
        return _more_of_grid(context, experiment, recipe, count)
    if (
        experiment.searching
        and search.is_one_by_one(recipe.sweep)
        and experiment.most_trials is None
    ):
        raise UsageError(
            f"experiment {experiment.name} draws trials until its budget is spent already",
            hint=f"to have another one at once: workbench add {experiment.id} -s KEY=VALUE",
        )
    tuned = sum(
        t.kind is Kind.TUNE and t.finals_of is None for t in context.store.trials(experiment.id)
    )
    before = experiment.most_trials if experiment.searching else None
    most = (tuned if before is None else before) + count
    if most > search.MAX_TRIALS:
        raise UsageError(f"an experiment has {search.MAX_TRIALS:,} trials at most")
    context.store.set_searching(experiment.id, on=True, most_trials=most)
    context.store.steer_experiment(experiment.id, ended_utc=None)
    text = (
        f"{recipe.sweep.method} draws {count} more for {experiment.name}, {most} in all: each as a "
        "card comes free, so that it knows what the others came to"
    )
    return accepted(text, experiment=experiment.id, name=experiment.name)


def _more_of_grid(
    context: TickContext, experiment: Experiment, recipe: Recipe, count: int
) -> RequestAnswer:
    """Add the grid's next points in their order, where `trials` had cut the grid short."""
    assert recipe.sweep is not None
    tried = [trial.settings for trial in context.store.trials(experiment.id)]
    left = [point for point in grid_points(recipe.sweep.parameters) if point not in tried][:count]
    if not left:
        raise UsageError(
            "all points of its grid are tried already",
            hint=f"name a trial yourself: workbench add {experiment.id} -s KEY=VALUE",
        )
    ids = [_add(context, experiment, point, experiment.warm_trial) for point in left]
    few = "" if len(ids) == count else " (its grid has no more)"
    which = f"trial {ids[0]}" if len(ids) == 1 else f"trials {ids[0]} to {ids[-1]}"
    text = (
        f"{which} of {experiment.name}{few}: {'it' if len(ids) == 1 else 'they'} {_when(context)}"
    )
    return accepted(text, trials=ids, experiment=experiment.id, name=experiment.name)


# --- what they share ---


def _shared(key: str, experiment: Experiment) -> bool:
    """Return whether trials with different values of the setting stay comparable."""
    sweep = experiment.recipe.get("sweep") or {}
    return key.startswith(SHARED) or key in (sweep.get("parameters") or {})


def _add(
    context: TickContext, experiment: Experiment, settings: dict[str, Any], warm: int | None
) -> int:
    """Add a queued trial and return its id; DoesNotFit where no card here could take it."""
    _check_fits(context, experiment, settings)
    with context.store.writing():
        if experiment.searching and experiment.most_trials is not None:
            # A trial that a person adds must not use up one of the sweep's own.
            more = experiment.most_trials + 1
            context.store.set_searching(experiment.id, on=True, most_trials=more)
        id = context.add_trial(experiment.id, Kind.TUNE, settings, warm_trial=warm)
    text = f"trial {id} was added to {experiment.name}: {_words(settings) or 'as in the recipe'}"
    context.store.note("added", text, trial=id, experiment=experiment.id)
    return id


def _check_fits(context: TickContext, experiment: Experiment, settings: dict[str, Any]) -> None:
    recipe = recipe_with(experiment, settings)
    try:
        check_fits(context, recipe, experiment, map(card_of, context.cards))
    except DoesNotFit as misfit:
        raise DoesNotFit(f"it would fit no card here: {misfit.what}", hint=misfit.hint) from misfit


def _words(settings: dict[str, Any]) -> str:
    pairs = (f"{safe_line(key, 60)}={safe_line(json.dumps(v), 60)}" for key, v in settings.items())
    return safe_line(" ".join(pairs), 300)


def _when(context: TickContext) -> str:
    if not any(card.present and card.trial is None for card in context.cards):
        return "waits for its turn on a card"
    return "starts as soon as it is its turn on a free card"
