"""Warm starts: which trial's adapter a new trial may start from."""

from __future__ import annotations

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.errors import CheckpointError, UsageError
from workbench.recipe import Recipe
from workbench.scheduler.handlers.trials import tuned_trial
from workbench.scheduler.plans.planning import unresolved_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.text import safe_line


def find_warm_trial(context: TickContext, trial: object, recipe: Recipe) -> int | None:
    """Return the trial whose adapter `recipe` can start from; None where none was asked for.

    Raises UsageError or CheckpointError that says what prevents it.
    """
    if trial is None:
        return None
    source = tuned_trial(context, trial)
    if context.store.adapter_sha256(source.id) is None:
        raise UsageError(
            f"trial {source.id} has left no adapter to start from ({source.state})",
            hint="wait for its end, or choose one of the board: workbench board",
        )
    folder = context.home.trial(source.id)
    if not (folder / "adapter" / WEIGHTS).is_file():
        raise CheckpointError(
            f"the adapter of trial {source.id} is gone from {folder}",
            hint="choose another trial to start from",
        )
    theirs = unresolved_recipe(context.store.experiment(source.experiment), source.settings)
    _check_alike(source.id, theirs, recipe)
    return source.id


def warm_words(warm_trial: int | None) -> str:
    """Return the part of an answer that names the warm start; an empty string without one."""
    if warm_trial is None:
        return ""
    return f"; its weights start from the adapter of trial {warm_trial}"


def _check_alike(source: int, theirs: Recipe, mine: Recipe) -> None:
    """Raise UsageError where the adapter of trial `source` does not fit the recipe `mine`.

    One of another shape cannot be loaded, and another scale would silently change the effect of the
    weights.
    """
    if (theirs.model.name, theirs.model.revision) != (mine.model.name, mine.model.revision):
        raise UsageError(
            f"the adapter of trial {source} is for {safe_line(theirs.model.name)}, not for "
            f"{safe_line(mine.model.name)}",
            hint="start from a trial on the same model",
        )
    for name in ("rank", "alpha", "rslora", "bias", "targets"):
        there, here = getattr(theirs.lora, name), getattr(mine.lora, name)
        if name == "targets" and isinstance(there, list) and isinstance(here, list):
            there, here = sorted(there), sorted(here)
        if there != here:
            value = f"[{', '.join(there)}]" if isinstance(there, list) else there
            raise UsageError(
                f"lora.{name} is {safe_line(here, 200)}, and the adapter of trial {source} has "
                f"{safe_line(there, 200)}: it cannot start from it",
                hint=f"-s lora.{name}={safe_line(value, 200)}, or without the warm start",
            )
