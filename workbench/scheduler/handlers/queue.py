"""Handlers for the queue: priority, number of trials at once, hold and release."""

from __future__ import annotations

from typing import Any

from workbench.errors import UsageError
from workbench.scheduler.handlers import accepted
from workbench.scheduler.tick_context import HELD, TickContext
from workbench.store import trial_queue
from workbench.store.rows import Experiment, RequestAnswer
from workbench.text import safe_line

FURTHEST = 1_000
"""Largest absolute value of a priority."""


def set_priority(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Set an experiment's priority; its waiting trials go before those of lower ones."""
    experiment = context.store.experiment(args["experiment"])
    chosen = whole_number(args["priority"], -FURTHEST, FURTHEST, "a priority")
    context.store.steer_experiment(experiment.id, priority=chosen)
    text = (
        f"{_name(experiment)} has priority {chosen} (was {experiment.priority}); its waiting "
        "trials go before those of lower ones as cards come free; what runs is left alone"
    )
    return accepted(text, experiment=experiment.id)


def set_max_parallel(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Limit how many trials of an experiment run at once; None removes the limit."""
    experiment = context.store.experiment(args["experiment"])
    limit = args["limit"]
    limit = None if limit is None else whole_number(limit, 1, 10_000, "how many at once")
    context.store.steer_experiment(experiment.id, max_parallel=limit)
    running = trial_queue.running_counts(context.store).get(experiment.id, 0)
    if limit is None:
        text = "may run on all cards at once, from now on"
    elif running > limit:
        text = f"runs {limit} at once at most; {running} run now, and those end by themselves"
    else:
        text = f"runs {limit} at once at most, from now on"
    return accepted(f"{_name(experiment)} {text}", experiment=experiment.id)


def hold_queue(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Place nothing of the experiment, or nothing at all; what runs is left alone."""
    if args.get("experiment") is None:
        context.store.set_fact(HELD, "1")
        running = len(context.store.live_attempts())
        text = f"the queue is held: no trial is placed; {_left_alone(running)}"
        return accepted(text)
    experiment = context.store.experiment(args["experiment"])
    context.store.steer_experiment(experiment.id, held=1)
    running = trial_queue.running_counts(context.store).get(experiment.id, 0)
    text = f"{_name(experiment)} is held: none of its trials is placed; {_left_alone(running)}"
    return accepted(text, experiment=experiment.id)


def _left_alone(running: int) -> str:
    return f"{running} that run go on to their ends" if running else "none runs now"


def release_queue(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """End the hold of an experiment, or of the whole queue."""
    if args.get("experiment") is None:
        context.store.set_fact(HELD, "")
        held = [one.name for one in context.store.experiments() if one.held]
        but = f"; still held: {', '.join(held[:5])}" if held else ""
        return accepted(f"the queue goes on as cards come free{but}")
    experiment = context.store.experiment(args["experiment"])
    context.store.steer_experiment(experiment.id, held=0)
    but = (
        "once the whole queue is released too" if context.store.fact(HELD) else "as cards come free"
    )
    return accepted(f"{_name(experiment)} goes on {but}", experiment=experiment.id)


def _name(experiment: Experiment) -> str:
    return f"experiment {safe_line(experiment.name)}"


def whole_number(value: object, least: int, most: int, what: str) -> int:
    """Return `value`; UsageError when it is no whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(
            f"{safe_line(value, 40)} will not do", hint=f"{what} is a number from {least} to {most}"
        )
    return value
