"""The disk guard: below the floor nothing starts and checkpoints are pruned.

On a full disk the reserve file is released, so that what happened can still be written down.
"""

from __future__ import annotations

import logging
from itertools import takewhile

from workbench.attempts.events import AttemptEnd, FailureCause, Outcome
from workbench.formatting import size
from workbench.machine import reserve_file
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import attempt_history
from workbench.store.rows import TrialRow
from workbench.trial import State
from workbench.user_config import Guards

DISK_LOW = "disk-low"
"""Fact: the disk is below its floor, in words; empty while it is not."""
FULL_BYTES = 16 << 20
"""Free bytes below which the reserve file is released."""
SLACK = 1.02
"""Factor above the floor at which the shortage ends: otherwise the next log line would begin it
again.
"""
PRUNE_EVERY_S = 60.0
"""Seconds between two attempts at pruning, where the one before freed too little."""
BARREN_LIMIT = 3
"""Attempts in a row that ended on a full disk without a new checkpoint, after which the trial
itself is too large and fails.
"""
PRUNED_AT_MOST = 2_000
"""Trials examined in one pruning."""

log = logging.getLogger("workbench.disk")


def keep_room(context: TickContext, guards: Guards) -> None:
    """Compare the disk with its floor: release or regrow the reserve file, report, prune."""
    room = context.disk_free(context.home.root)
    if room < min(FULL_BYTES, guards.disk_floor // 4):
        release_reserve_file(context)
    elif room >= guards.disk_floor + max(
        0, guards.ballast - reserve_file.reserve_size(context.home.reserve_file)
    ):
        reserve_file.grow_reserve(context.home.reserve_file, guards.ballast)
    _report_released_reserve(context)
    before = context.store.fact(DISK_LOW) or ""
    low = room < guards.disk_floor * (SLACK if before else 1)
    text = _words(context, room, guards) if low else ""
    if text != before:
        with context.store.writing():
            context.store.set_fact(DISK_LOW, text)
            if not before:
                context.store.note("disk", text, level="warning")
            elif not text:
                context.store.note("disk", f"the disk has {size(room)} free again")
    _prune_checkpoints(context, guards.disk_floor - room if low else 0)


def release_reserve_file(context: TickContext) -> None:
    """Release the reserve file, also when a tick could not write: the next tick reports it."""
    freed = reserve_file.release_reserve(context.home.reserve_file)
    if freed:
        log.error("the disk is full: the reserve file of %s was released", size(freed))
        context.reserve_freed_bytes += freed


def _report_released_reserve(context: TickContext) -> None:
    """Report a release that happened when nothing could be written."""
    if context.reserve_freed_bytes:
        freed = size(context.reserve_freed_bytes)
        text = f"the disk was full: the reserve file ({freed}) was released to write this down"
        context.store.note("disk", text, level="error")
        context.reserve_freed_bytes = 0


def _words(context: TickContext, room: int, guards: Guards) -> str:
    return (
        f"the disk of {context.home.root} has {size(room)} left, below {size(guards.disk_floor)} "
        "(guards.disk_floor): nothing new starts; free some"
    )


def _prune_checkpoints(context: TickContext, need_bytes: int) -> None:
    """Request room from older checkpoints, in a child process, and report what it did."""
    done = context.pruner.poll()
    if done is not None and done.get("removed"):
        trials = ", ".join(str(trial) for trial in done["trials"])
        what = f"{done['removed']} older checkpoints ({size(done['bytes'])}) of trials {trials}"
        context.store.note("disk", f"removed {what}: the disk was low", level="warning")
    now = context.store.clock()
    if need_bytes <= 0 or context.pruner.busy or abs(now - context.pruned_utc) < PRUNE_EVERY_S:
        return
    context.pruned_utc = now
    order = attempt_history.prune_order(context.store, PRUNED_AT_MOST)
    if order:
        context.pruner.start(order, need_bytes)


def after_full_disk(
    context: TickContext, trial: TrialRow, end: AttemptEnd
) -> tuple[State, str] | None:
    """Return where a trial goes whose attempt failed on a full disk: into the queue.

    None where the attempt ended otherwise, and after the third in a row without a new
    checkpoint: then it is the trial that is too large.
    """
    if end.cause != FailureCause.DISK_FULL:
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


def outcome_when_lost(context: TickContext) -> Outcome:
    """Return the outcome of an attempt that lost its worker now.

    On a full disk the loss does not count against the card.
    """
    return Outcome.CUT if context.store.fact(DISK_LOW) else Outcome.LOST
