"""Make what is so what is wanted: take in reports, end what has ended, ask again what was asked."""

from __future__ import annotations

from workbench import fault_points
from workbench.events import Outcome
from workbench.fleet import Halt, Phase
from workbench.scheduler import oom_fallback
from workbench.scheduler.early_stop import judge
from workbench.scheduler.guards import card_guards, disk
from workbench.scheduler.tick_context import TickContext, events_file
from workbench.store.ingest import End, ingest
from workbench.store.rows import Attempt, TrialRow
from workbench.trial import DesiredState, State

_HALTS = {DesiredState.PAUSE: Halt.YIELD, DesiredState.STOP: Halt.FINISH}


def reconcile(context: TickContext) -> None:
    stopping = context.stopping
    for attempt in context.store.live_attempts():
        end = take_in(context, attempt)
        if end is None:
            _ask(context, attempt, stopping)
    _call_back(context)
    for trial in context.store.trials(states=frozenset({State.PAUSED})):
        _settle_paused(context, trial)
    with context.store.writing():  # a budget that is spent gives up thousands at once
        for trial in context.store.unwilling():
            _settle_queued(context, trial)


def _call_back(context: TickContext) -> None:
    """A worker may take an attempt after it was called off: its start was on the way."""
    live = {attempt.id for attempt in context.store.live_attempts()}
    for card, report in context.reports.items():
        if report.attempt is not None and report.attempt not in live:
            context.fleet.halt(card, report.attempt, Halt.YIELD)


def take_in(context: TickContext, attempt: Attempt) -> End | None:
    """Read what the attempt wrote, and move its trial as it says.

    One commit: an end whose line counts as read has ended its attempt, wherever we are killed.
    """
    with context.store.writing():
        end = ingest(context.store, attempt, events_file(context.home, attempt.id))
        trial = context.store.trial(attempt.trial)
        now = context.store.attempt(attempt.id)
        if now.offset != attempt.offset:
            judge(context, trial, now)
        if trial.state is State.STARTING and now.reported_utc is not None:
            why = f"attempt {attempt.id} began on {attempt.card}"
            context.store.move(trial.id, State.STARTING, State.RUNNING, by="reconcile", why=why)
        if end is not None:
            context.store.end_attempt(
                attempt.id, end.outcome, end.reason, cause=end.cause, stage=end.stage
            )
            _finish(context, context.store.trial(trial.id), end)
    fault_points.at("ingest.after_commit")
    return end


def _finish(context: TickContext, trial: TrialRow, end: End) -> None:
    after, why = (
        oom_fallback.after(context, trial, end)
        or disk.after(context, trial, end)
        or _after(trial, end, context.store.adapter_sha256(trial.id) is not None)
    )
    why += card_guards.because(context, trial) if after is State.QUEUED else ""
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


def _after(trial: TrialRow, end: End, kept: bool) -> tuple[State, str]:
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


def _ask(context: TickContext, attempt: Attempt, stopping: bool) -> None:
    """Send again what this attempt was told, until it has done so."""
    trial = context.store.trial(attempt.trial)
    report = context.reports.get(attempt.card)
    if trial.desired_state is DesiredState.KILL:
        _kill(context, attempt, trial)
        return
    # Who was asked to end cannot be told to go on: it gives its card back, and goes on from there.
    how = _HALTS.get(trial.desired_state) or (Halt.YIELD if stopping else None)
    how = how or (Halt.FINISH if trial.pruned else None)
    how = how or (Halt.YIELD if attempt.halt else card_guards.halt(context, attempt))
    if report is not None and report.attempt == attempt.id:
        if how is not None:
            if attempt.halt != how:
                context.store.touch_attempt(attempt.id, halt=how)
            context.fleet.halt(attempt.card, attempt.id, how)
            fault_points.at("reconcile.after_halt")
    elif how and _needless(trial, how, stopping=stopping) and not _taken(context, attempt):
        # Never reached its worker, and is not wanted there any more.
        with context.store.writing():
            context.store.end_attempt(attempt.id, Outcome.YIELDED, "was not needed any more")
            _finish(context, trial, End(Outcome.YIELDED, attempt.from_step, "", "", ""))
    elif trial.state is State.STARTING and _idle(context, attempt) and not _taken(context, attempt):
        context.start(attempt)


def _needless(trial: TrialRow, how: Halt, *, stopping: bool) -> bool:
    """True for a start that may as well not be; what is to be finished has to get to a worker."""
    to_be_finished = how is Halt.FINISH and bool(trial.checkpoint_step) and not stopping
    return trial.state is State.STARTING and not to_be_finished


def _idle(context: TickContext, attempt: Attempt) -> bool:
    report = context.reports.get(attempt.card)
    return report is None or report.phase is Phase.IDLE


def _taken(context: TickContext, attempt: Attempt) -> bool:
    """True when its worker has it, or had it."""
    report = context.reports.get(attempt.card)
    return report is not None and (report.last_attempt or 0) >= attempt.id


def _kill(context: TickContext, attempt: Attempt, trial: TrialRow) -> None:
    context.fleet.end(attempt.card, f"trial {trial.id} was killed")
    with context.store.writing():
        context.store.end_attempt(attempt.id, Outcome.KILLED, "by a person")
        why = f"killed at step {trial.step}"
        context.store.move(
            trial.id, trial.state, State.STOPPED, by="reconcile", why=why, reason="killed"
        )


def _settle_paused(context: TickContext, trial: TrialRow) -> None:
    if trial.desired_state is DesiredState.RUN:
        context.store.move(trial.id, State.PAUSED, State.QUEUED, by="reconcile", why="resumed")
    elif trial.desired_state is DesiredState.STOP and trial.checkpoint_step:
        why = f"its checkpoint of step {trial.checkpoint_step} is to be scored and kept"
        context.store.move(trial.id, State.PAUSED, State.QUEUED, by="reconcile", why=why)
    elif trial.desired_state in (DesiredState.STOP, DesiredState.KILL):
        _stop_idle(context, trial)


def _settle_queued(context: TickContext, trial: TrialRow) -> None:
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
        _stop_idle(context, trial)
    # else: an end with something to keep waits for a card, to be scored there


def _stop_idle(context: TickContext, trial: TrialRow) -> None:
    word = (
        "killed"
        if trial.desired_state is DesiredState.KILL
        else "stopped before its first checkpoint"
    )
    context.store.move(trial.id, trial.state, State.STOPPED, by="reconcile", why=word, reason=word)
