"""Room on the home's disk: below the floor nothing starts and checkpoints are thinned; on a full
disk the ballast goes, so that what happened can still be written down."""

from __future__ import annotations

import logging
from itertools import takewhile
from typing import TYPE_CHECKING

from workbench import ballast
from workbench.events import Outcome
from workbench.present import size
from workbench.store.ingest import End
from workbench.store.rows import TrialRow
from workbench.trial import State
from workbench.user_config import Guards

if TYPE_CHECKING:
    from workbench.scheduler.desk import Desk

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


def keep_room(desk: Desk, guards: Guards) -> None:
    room = desk.disk_free(desk.home.root)
    if room < min(FULL_BYTES, guards.disk_floor // 4):
        give_up_ballast(desk)
    elif room >= guards.disk_floor + max(0, guards.ballast - ballast.held(desk.home.ballast)):
        ballast.grow(desk.home.ballast, guards.ballast)
    _tell_ballast(desk)
    before = desk.store.fact(DISK_LOW) or ""
    low = room < guards.disk_floor * (SLACK if before else 1)
    told = _words(desk, room, guards) if low else ""
    if told != before:
        with desk.store.writing():
            desk.store.set_fact(DISK_LOW, told)
            if not before:
                desk.store.note("disk", told, level="warning")
            elif not told:
                desk.store.note("disk", f"the disk has {size(room)} free again")
    _thin(desk, guards.disk_floor - room if low else 0)


def give_up_ballast(desk: Desk) -> None:
    """Also when a tick could not write: the next one can, and tells of it."""
    freed = ballast.release(desk.home.ballast)
    if freed:
        log.error("the disk is full: %s of ballast were given up", size(freed))
        desk.ballast_freed += freed


def _tell_ballast(desk: Desk) -> None:
    if desk.ballast_freed:
        freed = size(desk.ballast_freed)
        text = f"the disk was full: {freed} of ballast were given up to write this down"
        desk.store.note("disk", text, level="error")
        desk.ballast_freed = 0


def _words(desk: Desk, room: int, guards: Guards) -> str:
    return (
        f"the disk of {desk.home.root} has {size(room)} left, below {size(guards.disk_floor)} "
        "(guards.disk_floor): nothing new starts; free some"
    )


def _thin(desk: Desk, need_bytes: int) -> None:
    """Ask for room from older checkpoints, in a process of its own; take in what it did."""
    done = desk.thinner.poll()
    if done is not None and done.get("removed"):
        trials = ", ".join(str(trial) for trial in done["trials"])
        what = f"{done['removed']} older checkpoints ({size(done['bytes'])}) of trials {trials}"
        desk.store.note("disk", f"removed {what}: the disk was low", level="warning")
    now = desk.store.clock()
    if need_bytes <= 0 or desk.thinner.busy or abs(now - desk.thinned_utc) < THIN_EVERY_S:
        return
    desk.thinned_utc = now
    order = desk.store.thin_order(THINNED_AT_MOST)
    if order:
        desk.thinner.start(order, need_bytes)


def after(desk: Desk, trial: TrialRow, end: End) -> tuple[State, str] | None:
    """Where a trial goes whose attempt failed on a full disk: it waits in the queue for room. None
    after the third in a row without a new checkpoint: then it is the trial that is too large."""
    if end.cause != "disk_full":
        return None
    tries = takewhile(
        lambda one: one.cause == end.cause and one.checkpoint_step is None,
        reversed(desk.store.attempts(trial.id)),
    )
    if len(list(tries)) >= BARREN_LIMIT:
        return None
    why = f"the disk was full at step {end.step}"
    step = trial.checkpoint_step
    on = f"goes on from step {step}" if step else "begins again"
    desk.store.note(
        "disk",
        f"trial {trial.id}: {why}; {on} when there is room",
        level="warning",
        trial=trial.id,
        experiment=trial.experiment,
    )
    return State.QUEUED, why


def how_lost(desk: Desk) -> Outcome:
    """A worker that ends on a full disk is not its card's fault."""
    return Outcome.CUT if desk.store.fact(DISK_LOW) else Outcome.LOST
