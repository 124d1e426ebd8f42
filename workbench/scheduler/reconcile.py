"""Reconciliation: ingest worker events, close ended attempts, repeat pending stops and pauses."""

from __future__ import annotations

from pathlib import Path

from workbench import fault_points
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.fleet import Halt, Phase
from workbench.fleet.trial_fence import call_off
from workbench.scheduler import killed
from workbench.scheduler.early_stop import judge_trial
from workbench.scheduler.guards import card_guards, disk
from workbench.scheduler.plans import oom_fallback
from workbench.scheduler.tick_context import TickContext, events_file
from workbench.store import trial_queue
from workbench.store.ingest import ingest_events
from workbench.store.rows import AttemptRow, TrialRow
from workbench.trial import DesiredState, State

_HALTS = {DesiredState.PAUSE: Halt.YIELD, DesiredState.STOP: Halt.FINISH}


def reconcile(context: TickContext) -> None:
    """Bring every trial closer to its desired state; each tick repeats it."""
    stopping = context.stopping
    live = context.store.live_attempts()
    with context.store.writing():  # each commit waits for the disk: one for all that was written
        ended = {attempt.id for attempt in live if ingest_attempt(context, attempt) is not None}
    fault_points.at("ingest.after_commit")
    at_work = frozenset({State.STARTING, State.RUNNING})
    trials = {trial.id: trial for trial in context.store.trials(states=at_work)}
    for attempt in live:
        if attempt.id not in ended:
            trial = trials.get(attempt.trial) or context.store.trial(attempt.trial)
            _reconcile_attempt(context, attempt, trial, stopping)
    _halt_stale_attempts(context)
    for trial in context.store.trials(states=frozenset({State.PAUSED})):
        _reconcile_paused(context, trial)
    with context.store.writing():  # a spent budget ends thousands of trials at once
        for trial in trial_queue.unwilling_trials(context.store):
            _reconcile_queued(context, trial)
        killed.end_needless_bases(context)
    killed.clear_killed(context)


def _halt_stale_attempts(context: TickContext) -> None:
    """Halt what a worker runs that is not live any more.

    A worker may accept an attempt after it was called off, because its start was on the way.
    """
    live = {attempt.id for attempt in context.store.live_attempts()}
    for card, report in context.reports.items():
        if report.attempt is not None and report.attempt not in live:
            context.fleet.halt(card, report.attempt, Halt.YIELD)


def ingest_attempt(context: TickContext, attempt: AttemptRow) -> AttemptEnd | None:
    """Ingest the attempt's new events and move its trial accordingly; return its end, if it came.

    One commit: when the line of an end counts as read, the attempt has ended, wherever the loop
    is killed.
    """
    file = events_file(context.home, attempt.id)
    if not _has_grown(file, attempt.offset):
        return None
    with context.store.writing():
        end = ingest_events(context.store, attempt, file)
        trial = context.store.trial(attempt.trial)
        now = context.store.attempt(attempt.id)
        # In the same commit as the offset: each evaluation is judged exactly once.
        if now.offset != attempt.offset:
            judge_trial(context, trial, now)
        if trial.state is State.STARTING and now.reported_utc is not None:
            why = f"attempt {attempt.id} began on {attempt.card}"
            context.store.move(trial.id, State.STARTING, State.RUNNING, by="reconcile", why=why)
        if end is not None:
            context.store.end_attempt(
                attempt.id, end.outcome, end.reason, cause=end.cause, stage=end.stage
            )
            _finish(context, context.store.trial(trial.id), end)
    return end


def _has_grown(file: Path, offset: int) -> bool:
    """Return whether the file has other than `offset` bytes; most have nothing new in a tick."""
    try:
        return file.stat().st_size != offset
    except FileNotFoundError:
        return False


def _finish(context: TickContext, trial: TrialRow, end: AttemptEnd) -> None:
    """Move a trial whose attempt has ended, and report where it failed or ended early."""
    after, why = (
        oom_fallback.state_after(context, trial, end)
        or disk.after_full_disk(context, trial, end)
        or _after(trial, end, context.store.adapter_sha256(trial.id) is not None)
    )
    why += card_guards.yield_reason(context, trial) if after is State.QUEUED else ""
    reason = why if after in (State.PAUSED, State.STOPPED, State.PRUNED) else end.reason
    context.store.move(
        trial.id, trial.state, after, by="reconcile", why=why, reason=reason, hint=end.hint
    )
    if after in (State.FAILED, State.PRUNED):
        failed = after is State.FAILED
        context.store.note(
            "failed" if failed else "pruned",
            f"trial {trial.id} {'failed' if failed else 'ended early'}: {reason}",
            level="error" if failed else "info",
            trial=trial.id,
            experiment=trial.experiment,
        )


def _after(trial: TrialRow, end: AttemptEnd, kept: bool) -> tuple[State, str]:
    """Return the state after an end and why; `kept` says that the trial has left an adapter."""
    if end.outcome == Outcome.DONE:
        return State.DONE, f"finished at step {end.step}"
    if end.outcome == Outcome.DIVERGED and kept:
        return State.PRUNED, f"{end.reason}; what it was at step {end.step} is kept"
    if (
        end.outcome == Outcome.STOPPED
        and trial.pruned
        and trial.desired_state is not DesiredState.STOP
    ):
        return State.PRUNED, trial.pruned
    if end.outcome == Outcome.STOPPED:
        return State.STOPPED, f"stopped at step {end.step}"
    if end.outcome == Outcome.YIELDED:
        if trial.desired_state is DesiredState.PAUSE:
            return State.PAUSED, f"paused at step {end.step}"
        return State.QUEUED, f"gave its card back at step {end.step}"
    return State.FAILED, end.reason or "failed"


def _reconcile_attempt(
    context: TickContext, attempt: AttemptRow, trial: TrialRow, stopping: bool
) -> None:
    """Send again what this attempt still has to do: start, halt or kill."""
    report = context.reports.get(attempt.card)
    if trial.desired_state is DesiredState.KILL:
        _kill(context, attempt, trial)
        return
    # An attempt that was asked to end cannot be told to continue: it yields, and its trial is
    # placed again.
    how = _HALTS.get(trial.desired_state) or (Halt.YIELD if stopping else None)
    how = how or (Halt.FINISH if trial.pruned else None)
    how = how or (Halt.YIELD if attempt.halt else card_guards.requested_halt(context, attempt))
    if report is not None and report.attempt == attempt.id:
        if how is not None:
            if attempt.halt != how:
                context.store.touch_attempt(attempt.id, halt=how)
            context.fleet.halt(attempt.card, attempt.id, how)
            fault_points.at("reconcile.after_halt")
    elif how and _needless(trial, how, stopping=stopping) and not _taken(context, attempt):
        # The start has not reached its worker and is not needed any more. It may still arrive:
        # the fence keeps it from training.
        call_off(context.home.trial(trial.id))
        with context.store.writing():
            context.store.end_attempt(attempt.id, Outcome.YIELDED, "was not needed any more")
            _finish(context, trial, AttemptEnd(outcome=Outcome.YIELDED, step=attempt.from_step))
    elif trial.state is State.STARTING and _idle(context, attempt) and not _taken(context, attempt):
        context.start(attempt)


def _needless(trial: TrialRow, how: Halt, *, stopping: bool) -> bool:
    """Return True for a start that may be dropped.

    One that is to finish a trial with a checkpoint has to reach a worker.
    """
    to_be_finished = how is Halt.FINISH and bool(trial.checkpoint_step) and not stopping
    return trial.state is State.STARTING and not to_be_finished


def _idle(context: TickContext, attempt: AttemptRow) -> bool:
    report = context.reports.get(attempt.card)
    return report is None or report.phase is Phase.IDLE


def _taken(context: TickContext, attempt: AttemptRow) -> bool:
    """Return True when the card's worker accepted this attempt, now or earlier."""
    report = context.reports.get(attempt.card)
    return report is not None and (report.last_attempt or 0) >= attempt.id


def _kill(context: TickContext, attempt: AttemptRow, trial: TrialRow) -> None:
    context.fleet.end(attempt.card, f"trial {trial.id} was killed")
    with context.store.writing():
        context.store.end_attempt(attempt.id, Outcome.KILLED, "by a person")
        why = f"killed at step {trial.step}"
        context.store.move(
            trial.id, trial.state, State.STOPPED, by="reconcile", why=why, reason="killed"
        )


def _reconcile_paused(context: TickContext, trial: TrialRow) -> None:
    if trial.desired_state is DesiredState.RUN:
        context.store.move(trial.id, State.PAUSED, State.QUEUED, by="reconcile", why="resumed")
    elif trial.desired_state is DesiredState.STOP and trial.checkpoint_step:
        why = f"its checkpoint of step {trial.checkpoint_step} is to be scored and kept"
        context.store.move(trial.id, State.PAUSED, State.QUEUED, by="reconcile", why=why)
    elif trial.desired_state in (DesiredState.STOP, DesiredState.KILL):
        _stop_without_worker(context, trial)


def _reconcile_queued(context: TickContext, trial: TrialRow) -> None:
    """Pause or end a queued trial as it is desired; one with a checkpoint to score stays."""
    if trial.desired_state is DesiredState.PAUSE:
        context.store.move(
            trial.id, State.QUEUED, State.PAUSED, by="reconcile", why="paused in the queue"
        )
    elif trial.desired_state is DesiredState.RUN:
        if not trial.checkpoint_step:
            why = trial.pruned
            context.store.move(
                trial.id, State.QUEUED, State.PRUNED, by="reconcile", why=why, reason=why
            )
    elif trial.desired_state is DesiredState.KILL or not trial.checkpoint_step:
        _stop_without_worker(context, trial)
    # else: an end with something to keep waits for a card, to be scored there


def _stop_without_worker(context: TickContext, trial: TrialRow) -> None:
    word = (
        "killed"
        if trial.desired_state is DesiredState.KILL
        else "stopped before its first checkpoint"
    )
    context.store.move(trial.id, trial.state, State.STOPPED, by="reconcile", why=word, reason=word)
