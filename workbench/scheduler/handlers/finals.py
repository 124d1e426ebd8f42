"""Handler of `finals`: the best settings of an experiment are trained again with other seeds."""

from __future__ import annotations

from typing import Any

from workbench.errors import UsageError
from workbench.formatting import plural
from workbench.recipe.schema import Finals
from workbench.scheduler.finals import begin_finals, describe_beginning
from workbench.scheduler.handlers import accepted
from workbench.scheduler.handlers.queue import whole_number
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import sweep_progress
from workbench.store.queries.sweep_progress import FinalsRequest
from workbench.store.rows import Experiment, RequestAnswer
from workbench.store.score_trials import check_it_is_no_evaluation
from workbench.text import safe_line


def run_finals(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Begin finals, or remember them until the experiment's other trials have ended."""
    experiment = context.store.experiment(args["experiment"])
    name = safe_line(experiment.name)
    if experiment.state == "refused":
        raise UsageError(f"experiment {name} was refused: it has no trials", hint=experiment.hint)
    check_it_is_no_evaluation(context.home.experiment(experiment.id), experiment.name)
    finals = _wanted(experiment, args)
    preparing = experiment.state == "preparing" or experiment.searching
    if preparing or sweep_progress.has_unfinished(context.store, experiment.id):
        sweep_progress.request_finals(context.store, experiment.id, finals)
        text = (
            f"when all its trials have ended, experiment {name} trains the best {finals.top} "
            f"settings again with {finals.seeds} new seeds each"
        )
        return accepted(text, experiment=experiment.id, name=experiment.name, trials=[])
    added = begin_finals(context, experiment, finals)
    if not added:
        raise UsageError(
            f"no trial of experiment {name} has finished with a score, so there is no finalist",
            hint=f"see why: workbench board {experiment.id}",
        )
    few = len(added) < finals.top
    only = f" ({plural(len(added), 'finished setting')}, not {finals.top})" if few else ""
    ids = [id for ids in added.values() for id in ids]
    return accepted(
        f"experiment {name}: {describe_beginning(added)}{only}",
        experiment=experiment.id,
        name=experiment.name,
        trials=ids,
        finalists=list(added),
    )


def _wanted(experiment: Experiment, args: dict[str, Any]) -> FinalsRequest:
    """Return the finals as asked for; what is left out is the recipe's, or the default."""
    usual = (experiment.recipe.get("sweep") or {}).get("finals") or Finals().model_dump()
    top, seeds = args.get("top"), args.get("seeds")
    return FinalsRequest(
        top=whole_number(usual["top"] if top is None else top, 1, 100, "how many settings"),
        seeds=whole_number(usual["seeds"] if seeds is None else seeds, 2, 100, "how many seeds"),
    )
