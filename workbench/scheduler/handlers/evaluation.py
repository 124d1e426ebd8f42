"""Handler of `evaluate`: adapters are scored on other rows, in an experiment of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.adapters.subjects import Subjects, scored_adapter, write_subjects
from workbench.errors import CheckpointError, UsageError
from workbench.formatting import plural
from workbench.recipe import Recipe
from workbench.scheduler.handlers import accepted
from workbench.scheduler.handlers.creation import new_experiment, submitted_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import RequestAnswer
from workbench.store.score_trials import saved_adapter
from workbench.text import safe_line
from workbench.trial import Kind

MOST_SUBJECTS = 1_000
"""Adapters in one evaluation."""


def evaluate_adapters(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Create an experiment that scores the named adapters on the recipe's `data.eval`.

    It is prepared next: only then are the adapters' folders read, because that takes time.
    """
    recipe = submitted_recipe(args)
    file = recipe.data.eval
    if file is None:
        raise UsageError("an evaluation needs rows", hint="name a file: --data FILE")
    recipe = recipe.model_copy(update={"sweep": None})
    adapters = _adapters(context, args["subjects"], recipe)
    subjects = Subjects(adapters=adapters, same_base=bool(args.get("same_base")))
    id, name = new_experiment(
        context, recipe, None, lambda folder: write_subjects(folder, subjects)
    )
    scored = f"{plural(len(adapters), 'adapter')} and the base are scored {_by_what(recipe, file)}"
    text = f"experiment {name}: {scored}; the rows are checked first"
    return accepted(text, experiment=id, name=name, subjects=adapters)


def _by_what(recipe: Recipe, file: str) -> str:
    """Return `on other.jsonl`, or `by the task sums.yaml` where a task ranks the board."""
    task = recipe.evaluate.task
    name = safe_line(os.path.basename(task or file), 120)
    return f"by the task {name}" if task else f"on {name}"


def _adapters(context: TickContext, named: Sequence[object], recipe: Recipe) -> list[int | str]:
    """Return the adapters once each, in their order; UsageError for what is none."""
    found: dict[int | str, None] = {}
    for one in named:
        if isinstance(one, str):
            if not os.path.isabs(one):
                raise UsageError(f"{safe_line(one, 200)} is no absolute path")
            found[one] = None
        elif isinstance(one, int) and not isinstance(one, bool):
            found[_adapter_of(context, one, recipe)] = None
        else:
            raise UsageError(f"{safe_line(one, 80)} is neither a trial's id nor a folder")
    if not 0 < len(found) <= MOST_SUBJECTS:
        raise UsageError(f"an evaluation scores 1 to {MOST_SUBJECTS:,} adapters")
    return list(found)


def _adapter_of(context: TickContext, id: int, recipe: Recipe) -> int | str:
    """Return the adapter that a trial left or scored; UsageError where there is none."""
    trial = context.store.trial(id)
    if trial.kind is Kind.SCORE and (scored := scored_adapter(trial.settings)) is not None:
        return scored if isinstance(scored, str) else _adapter_of(context, scored, recipe)
    if trial.kind is not Kind.TUNE:
        raise UsageError(
            f"trial {id} has no adapter of its own; the base is always scored too",
            hint="name a trial that trains an adapter; see `workbench ls`",
        )
    saved = saved_adapter(context.store, id)
    if saved is None:
        raise UsageError(
            f"trial {id} has left no adapter to score ({trial.state})",
            hint="choose one of the board: workbench board"
            if trial.state.final
            else f"wait for its end, or end it now: workbench stop {id}",
        )
    if not (saved.folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"the adapter of trial {id} is gone from {saved.folder}",
            hint="choose another trial to score",
        )
    model = context.store.experiment(trial.experiment).recipe["model"]
    if (model["name"], model["revision"]) != (recipe.model.name, recipe.model.revision):
        raise UsageError(
            f"the adapter of trial {id} is for {safe_line(model['name'])}, not for "
            f"{safe_line(recipe.model.name)}",
            hint="evaluate adapters of different models one by one",
        )
    return id
