"""Handlers for whole experiments: stop, kill, pause and resume all of their trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.errors import UsageError, WorkbenchError
from workbench.formatting import plural
from workbench.scheduler.handlers import Handler, accepted
from workbench.scheduler.handlers.trials import (
    kill_trial,
    pause_trial,
    resume_trial,
    stop_trial,
)
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import sweep_progress
from workbench.store.rows import Experiment, RequestAnswer, TrialRow
from workbench.text import safe_line
from workbench.trial import FINAL, Kind, State


def stop_experiment(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """End all unfinished trials, the sweep and its finals; what the trials have learned is kept."""
    return _end_experiment(context, args, stop_trial, "stopped")


def kill_experiment(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """End all unfinished trials and the sweep at once; nothing of those trials is kept."""
    return _end_experiment(context, args, kill_trial, "killed")


def pause_experiment(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Hold the experiment, and take its live trials off their cards with a checkpoint."""
    experiment = context.store.experiment(args["experiment"])
    _refuse_ended(experiment)
    context.store.steer_experiment(experiment.id, held=1)
    count = _each_trial(context, experiment, pause_trial, lambda trial: trial.state.live)
    name = safe_line(experiment.name)
    frees = f"; {plural(count, 'trial')} will checkpoint and leave the card" if count else ""
    return accepted(
        f"experiment {name} is held{frees}. `workbench resume {name}` continues it",
        experiment=experiment.id,
    )


def resume_experiment(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Release the experiment, and let its paused trials continue, and the base that it awaits."""
    experiment = context.store.experiment(args["experiment"])
    if not experiment.held:
        _refuse_ended(experiment)
    context.store.steer_experiment(experiment.id, held=0)
    count = _each_trial(
        context, experiment, resume_trial, lambda trial: trial.desired_state != "run"
    )
    resumed = f"; {plural(count, 'trial')} resumed" if count else ""
    resumed += _resume_base(context, experiment)
    return accepted(
        f"experiment {safe_line(experiment.name)} continues as cards become free{resumed}",
        experiment=experiment.id,
    )


def _resume_base(context: TickContext, experiment: Experiment) -> str:
    """Resume the base that the experiment is compared with, if it was paused; return the words.

    It may be another experiment's, which shares it.
    """
    if experiment.base_trial is None:
        return ""
    base = context.store.trial(experiment.base_trial)
    if base.state.final or base.desired_state != "pause":
        return ""
    owner = context.store.experiment(base.experiment)
    if owner.held:
        name = safe_line(owner.name)
        return f"; its base waits for experiment {name}, which is held: `workbench resume {name}`"
    resume_trial(context, {"trial": base.id})
    return f"; its base, trial {base.id}, resumed"


def _end_experiment(
    context: TickContext, args: dict[str, Any], end_trial: Handler, word: str
) -> RequestAnswer:
    """End what is unfinished by `end_trial`; `word` says in the answer how."""
    experiment = context.store.experiment(args["experiment"])
    name = safe_line(experiment.name)
    _refuse_ended(experiment)
    if experiment.state == "preparing":
        # Refusing comes first: a preparation that ends meanwhile has no experiment to fill.
        why = f"{word} while it was prepared"
        context.store.mark_refused(experiment.id, why, "submit it again")
        context.preparer.cancel(experiment.id)
        return accepted(f"experiment {name} is {word} before any trial", experiment=experiment.id)
    if experiment.searching:
        context.store.set_searching(experiment.id, on=False, most_trials=experiment.most_trials)
    finals = sweep_progress.requested_finals(context.store, experiment)
    sweep_progress.request_finals(context.store, experiment.id, None)
    count = _each_trial(context, experiment, end_trial, lambda _: True)
    if not count and not experiment.searching and finals is None:
        raise _ended(name)
    return accepted(
        f"experiment {name}: {plural(count, 'trial')} {'is' if count == 1 else 'are'} {word}; "
        "its sweep asks for no more",
        experiment=experiment.id,
    )


def _refuse_ended(experiment: Experiment) -> None:
    """Raise UsageError for an experiment that was refused, or of which all has ended."""
    name = safe_line(experiment.name)
    if experiment.state == "refused":
        raise UsageError(f"experiment {name} was refused: it has no trials", hint=experiment.hint)
    if experiment.ended_utc is not None:
        raise _ended(name)


def _ended(name: str) -> UsageError:
    return UsageError(
        f"all trials of {name} have ended already", hint=f"see `workbench board {name}`"
    )


def _each_trial(
    context: TickContext,
    experiment: Experiment,
    handle: Handler,
    concerned: Callable[[TrialRow], bool],
) -> int:
    """Handle each unfinished trial that is concerned; return how many. The base is left alone.

    A trial that cannot be handled (it ends in this moment) does not keep the others from it.
    """
    unfinished = frozenset(State) - FINAL
    done = 0
    for trial in context.store.trials(experiment.id, unfinished):
        if trial.kind in (Kind.TUNE, Kind.SCORE) and concerned(trial):
            try:
                handle(context, {"trial": trial.id})
            except WorkbenchError:
                continue
            done += 1
    return done
