"""Room on the home's disk: below the floor nothing starts and checkpoints are thinned; on a full
disk the ballast goes, so that what happened can still be written down."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING

from workbench.events import Outcome
from workbench.formatting import size
from workbench.machine import reserve_file
from workbench.store.ingest import End
from workbench.store.rows import TrialRow
from workbench.trial import State
from workbench.user_config import Guards

if TYPE_CHECKING:
    from workbench.scheduler.tick_context import TickContext

DISK_LOW = "disk-low"
"""Fact: that the disk is below its floor, in words; empty while it is not."""
FULL_BYTES = 16 << 20
"""With less left, the ballast is given up."""
SLACK = 1.02
"""So far above the floor it is over: else a log's next line would begin it again."""
THIN_EVERY_S = 60.0
"""Between two tries, where the one before could not free enough."""
BARREN_LIMIT = 3
THINNED_AT_MOST = 2_000
"""Trials looked at in one try."""

log = logging.getLogger("workbench.disk")


def keep_room(context: TickContext, guards: Guards) -> None:
    room = context.disk_free(context.home.root)
    if room < min(FULL_BYTES, guards.disk_floor // 4):
        give_up_ballast(context)
    elif room >= guards.disk_floor + max(
        0, guards.ballast - reserve_file.held(context.home.ballast)
    ):
        reserve_file.grow(context.home.ballast, guards.ballast)
    _tell_ballast(context)
    before = context.store.fact(DISK_LOW) or ""
    low = room < guards.disk_floor * (SLACK if before else 1)
    told = _words(context, room, guards) if low else ""
    if told != before:
        with context.store.writing():
            context.store.set_fact(DISK_LOW, told)
            if not before:
                context.store.note("disk", told, level="warning")
            elif not told:
                context.store.note("disk", f"the disk has {size(room)} free again")
    _thin(context, guards.disk_floor - room if low else 0)


def give_up_ballast(context: TickContext) -> None:
    """Also when a tick could not write: the next one can, and tells of it."""
    freed = reserve_file.release(context.home.ballast)
    if freed:
        log.error("the disk is full: %s of ballast were given up", size(freed))
        context.ballast_freed += freed


def _tell_ballast(context: TickContext) -> None:
    if context.ballast_freed:
        freed = size(context.ballast_freed)
        text = f"the disk was full: {freed} of ballast were given up to write this down"
        context.store.note("disk", text, level="error")
        context.ballast_freed = 0


def _words(context: TickContext, room: int, guards: Guards) -> str:
    return (
        f"the disk of {context.home.root} has {size(room)} left, below {size(guards.disk_floor)} "
        "(guards.disk_floor): nothing new starts; free some"
    )


def _thin(context: TickContext, need_bytes: int) -> None:
    """Ask for room from older checkpoints, in a process of its own; take in what it did."""
    done = context.thinner.poll()
    if done is not None and done.get("removed"):
        trials = ", ".join(str(trial) for trial in done["trials"])
        what = f"{done['removed']} older checkpoints ({size(done['bytes'])}) of trials {trials}"
        context.store.note("disk", f"removed {what}: the disk was low", level="warning")
    now = context.store.clock()
    if need_bytes <= 0 or context.thinner.busy or abs(now - context.thinned_utc) < THIN_EVERY_S:
        return
    context.thinned_utc = now
    order = context.store.thin_order(THINNED_AT_MOST)
    if order:
        context.thinner.start(order, need_bytes)


def after(context: TickContext, trial: TrialRow, end: End) -> tuple[State, str] | None:
    """Where a trial goes whose attempt failed on a full disk: it waits in the queue for room. None
    after the third in a row without a new checkpoint: then it is the trial that is too large."""
    if end.cause != "disk_full":
        return None
    tries = takewhile(
        lambda one: one.cause == end.cause and one.checkpoint_step is None,
        reversed(context.store.attempts(trial.id)),
    )
    if len(list(tries)) >= BARREN_LIMIT:
        return None
    why = f"the disk was full at step {end.step}"
    step = trial.checkpoint_step
    on = f"goes on from step {step}" if step else "begins again"
    context.store.note(
        "disk",
        f"trial {trial.id}: {why}; {on} when there is room",
        level="warning",
        trial=trial.id,
        experiment=trial.experiment,
    )
    return State.QUEUED, why


def how_lost(context: TickContext) -> Outcome:
    """A worker that ends on a full disk is not its card's fault."""
    return Outcome.CUT if context.store.fact(DISK_LOW) else Outcome.LOST
