"""The queue: priorities, how many at once, hold and release."""

from __future__ import annotations

from typing import Any

from workbench.errors import UsageError
from workbench.scheduler.desk import HELD, Desk
from workbench.scheduler.verbs import done
from workbench.store.rows import Answer, Experiment
from workbench.text import safe_line

FURTHEST = 1_000
"""Of priorities, either way."""


def priority(desk: Desk, args: dict[str, Any]) -> Answer:
    experiment = desk.store.experiment(args["experiment"])
    wanted = whole(args["priority"], -FURTHEST, FURTHEST, "a priority")
    desk.store.steer_experiment(experiment.id, priority=wanted)
    text = (
        f"{_name(experiment)} has priority {wanted} (was {experiment.priority}); its waiting "
        "trials go before those of lower ones as cards come free; what runs is left alone"
    )
    return done(text, experiment=experiment.id)


def max_parallel(desk: Desk, args: dict[str, Any]) -> Answer:
    """`limit` trials at once at most; None: as many as there are cards."""
    experiment = desk.store.experiment(args["experiment"])
    limit = args["limit"]
    limit = None if limit is None else whole(limit, 1, 10_000, "how many at once")
    desk.store.steer_experiment(experiment.id, max_parallel=limit)
    running = desk.store.running_by_experiment().get(experiment.id, 0)
    if limit is None:
        text = "may run on all cards at once, from now on"
    elif running > limit:
        text = f"runs {limit} at once at most; {running} run now, and those end by themselves"
    else:
        text = f"runs {limit} at once at most, from now on"
    return done(f"{_name(experiment)} {text}", experiment=experiment.id)


def hold(desk: Desk, args: dict[str, Any]) -> Answer:
    """Place nothing of the experiment, or nothing at all; what runs is left alone."""
    if args.get("experiment") is None:
        desk.store.set_fact(HELD, "1")
        running = len(desk.store.live_attempts())
        text = f"the queue is held: no trial is placed; {_left_alone(running)}"
        return done(text)
    experiment = desk.store.experiment(args["experiment"])
    desk.store.steer_experiment(experiment.id, held=1)
    running = desk.store.running_by_experiment().get(experiment.id, 0)
    text = f"{_name(experiment)} is held: none of its trials is placed; {_left_alone(running)}"
    return done(text, experiment=experiment.id)


def _left_alone(running: int) -> str:
    return f"{running} that run go on to their ends" if running else "none runs now"


def release(desk: Desk, args: dict[str, Any]) -> Answer:
    if args.get("experiment") is None:
        desk.store.set_fact(HELD, "")
        held = [one.name for one in desk.store.experiments() if one.held]
        but = f"; still held: {', '.join(held[:5])}" if held else ""
        return done(f"the queue goes on as cards come free{but}")
    experiment = desk.store.experiment(args["experiment"])
    desk.store.steer_experiment(experiment.id, held=0)
    but = "once the whole queue is released too" if desk.store.fact(HELD) else "as cards come free"
    return done(f"{_name(experiment)} goes on {but}", experiment=experiment.id)


def _name(experiment: Experiment) -> str:
    return f"experiment {safe_line(experiment.name)}"


def whole(value: object, least: int, most: int, what: str) -> int:
    """UsageError when it is no whole number between the two."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(
            f"{safe_line(value, 40)} will not do", mend=f"{what} is a number from {least} to {most}"
        )
    return value
