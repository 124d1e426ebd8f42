"""The end of killed trials: their files are removed, and a base that nobody needs is ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.attempts.assignment import AHEAD
from workbench.fleet.trial_fence import LOCK, call_off
from workbench.machine.locks import Lock
from workbench.scheduler.tick_context import TickContext
from workbench.store import trial_queue
from workbench.store.row_results import forget_row_results
from workbench.trial import State

RECENT_S = 60.0
"""Seconds after a kill in which files are looked for although no checkpoint is known: the worker
may have committed one that it did not report any more."""


def clear_killed(context: TickContext) -> None:
    """Remove what killed trials keep, once their workers have let go of it.

    It is checkpoints, adapter, results of single rows, and answers that were generated for them.
    """
    since_utc = context.store.clock() - RECENT_S
    for id, checkpoint_step in trial_queue.killed_trials(context.store, since_utc):
        if _remove_files(context, id) and checkpoint_step is not None:
            context.store.update_row("trials", id, checkpoint_step=None)


def _remove_files(context: TickContext, trial: int) -> bool:
    """Remove what a trial keeps; return False where its attempt may still be writing."""
    folder = context.home.trial(trial)
    kept = [path for path in _kept_paths(folder) if path.exists()]
    if not kept:
        return True
    call_off(folder)
    lock = Lock(folder / LOCK)
    if not lock.take():
        return False
    try:
        for path in kept:
            shutil.rmtree(path, ignore_errors=True)
        forget_row_results(context.store, trial)
    finally:
        lock.release()
    return True


def _kept_paths(trial_folder: Path) -> list[Path]:
    return [trial_folder / name for name in ("checkpoints", "adapter", "results", AHEAD)]


def end_needless_bases(context: TickContext) -> None:
    """End queued base trials whose tuned trials were killed: there is nothing to compare with."""
    why = "all trials that it is compared with were killed"
    for base in trial_queue.needless_bases(context.store):
        context.store.move(
            base.id, State.QUEUED, State.STOPPED, by="reconcile", why=why, reason=why
        )
