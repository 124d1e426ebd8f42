"""Make what is so what is wanted: take in reports, end what has ended, ask again what was asked."""

from __future__ import annotations

from workbench import faults
from workbench.events import Outcome
from workbench.fleet import Halt, Phase
from workbench.scheduler import disk, guards, ladder
from workbench.scheduler.desk import Desk, events_file
from workbench.scheduler.early_stop import judge
from workbench.store.ingest import End, ingest
from workbench.store.rows import Attempt, TrialRow
from workbench.trial import State, Wanted

_HALTS = {Wanted.PAUSE: Halt.YIELD, Wanted.STOP: Halt.FINISH}


def settle(desk: Desk) -> None:
    stopping = desk.stopping
    for attempt in desk.store.live_attempts():
        end = take_in(desk, attempt)
        if end is None:
            _ask(desk, attempt, stopping)
    _call_back(desk)
    for trial in desk.store.trials(states=frozenset({State.PAUSED})):
        _settle_paused(desk, trial)
    with desk.store.writing():  # a budget that is spent gives up thousands at once
        for trial in desk.store.unwilling():
            _settle_queued(desk, trial)


def _call_back(desk: Desk) -> None:
    """A worker may take an attempt after it was called off: its start was on the way."""
    live = {attempt.id for attempt in desk.store.live_attempts()}
    for card, report in desk.reports.items():
        if report.attempt is not None and report.attempt not in live:
            desk.fleet.halt(card, report.attempt, Halt.YIELD)


def take_in(desk: Desk, attempt: Attempt) -> End | None:
    """Read what the attempt wrote, and move its trial as it says.

    One commit: an end whose line counts as read has ended its attempt, wherever we are killed.
    """
    with desk.store.writing():
        end = ingest(desk.store, attempt, events_file(desk.home, attempt.id))
        trial = desk.store.trial(attempt.trial)
        now = desk.store.attempt(attempt.id)
        if now.offset != attempt.offset:
            judge(desk, trial, now)
        if trial.state is State.STARTING and now.reported_utc is not None:
            why = f"attempt {attempt.id} began on {attempt.card}"
            desk.store.move(trial.id, State.STARTING, State.RUNNING, by="settle", why=why)
        if end is not None:
            desk.store.end_attempt(
                attempt.id, end.outcome, end.reason, cause=end.cause, stage=end.stage
            )
            _finish(desk, desk.store.trial(trial.id), end)
    faults.at("ingest.after_commit")
    return end


def _finish(desk: Desk, trial: TrialRow, end: End) -> None:
    after, why = (
        ladder.after(desk, trial, end)
        or disk.after(desk, trial, end)
        or _after(trial, end, desk.store.adapter_sha256(trial.id) is not None)
    )
    why += guards.because(desk, trial) if after is State.QUEUED else ""
    reason = why if after in (State.PAUSED, State.STOPPED, State.PRUNED) else end.reason
    desk.store.move(
        trial.id, trial.state, after, by="settle", why=why, reason=reason, mend=end.mend
    )
    if after in (State.FAILED, State.PRUNED):
        failed = after is State.FAILED
        desk.store.note(
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
    if end.outcome == Outcome.STOPPED and trial.pruned and trial.wanted is not Wanted.STOP:
        return State.PRUNED, trial.pruned
    if end.outcome == Outcome.STOPPED:
        return State.STOPPED, f"stopped at step {end.step}"
    if end.outcome == Outcome.YIELDED:
        if trial.wanted is Wanted.PAUSE:
            return State.PAUSED, f"paused at step {end.step}"
        return State.QUEUED, f"gave its card back at step {end.step}"
    return State.FAILED, end.reason or "failed"


def _ask(desk: Desk, attempt: Attempt, stopping: bool) -> None:
    """Send again what this attempt was told, until it has done so."""
    trial = desk.store.trial(attempt.trial)
    report = desk.reports.get(attempt.card)
    if trial.wanted is Wanted.KILL:
        _kill(desk, attempt, trial)
        return
    # Who was asked to end cannot be told to go on: it gives its card back, and goes on from there.
    how = _HALTS.get(trial.wanted) or (Halt.YIELD if stopping else None)
    how = how or (Halt.FINISH if trial.pruned else None)
    how = how or (Halt.YIELD if attempt.halt else guards.halt(desk, attempt))
    if report is not None and report.attempt == attempt.id:
        if how is not None:
            if attempt.halt != how:
                desk.store.touch_attempt(attempt.id, halt=how)
            desk.fleet.halt(attempt.card, attempt.id, how)
            faults.at("settle.after_halt")
    elif how and _needless(trial, how, stopping=stopping) and not _taken(desk, attempt):
        # Never reached its worker, and is not wanted there any more.
        with desk.store.writing():
            desk.store.end_attempt(attempt.id, Outcome.YIELDED, "was not needed any more")
            _finish(desk, trial, End(Outcome.YIELDED, attempt.from_step, "", "", ""))
    elif trial.state is State.STARTING and _idle(desk, attempt) and not _taken(desk, attempt):
        desk.start(attempt)


def _needless(trial: TrialRow, how: Halt, *, stopping: bool) -> bool:
    """True for a start that may as well not be; what is to be finished has to get to a worker."""
    to_be_finished = how is Halt.FINISH and bool(trial.checkpoint_step) and not stopping
    return trial.state is State.STARTING and not to_be_finished


def _idle(desk: Desk, attempt: Attempt) -> bool:
    report = desk.reports.get(attempt.card)
    return report is None or report.phase is Phase.IDLE


def _taken(desk: Desk, attempt: Attempt) -> bool:
    """True when its worker has it, or had it."""
    report = desk.reports.get(attempt.card)
    return report is not None and (report.last_attempt or 0) >= attempt.id


def _kill(desk: Desk, attempt: Attempt, trial: TrialRow) -> None:
    desk.fleet.end(attempt.card, f"trial {trial.id} was killed")
    with desk.store.writing():
        desk.store.end_attempt(attempt.id, Outcome.KILLED, "by a person")
        why = f"killed at step {trial.step}"
        desk.store.move(trial.id, trial.state, State.STOPPED, by="settle", why=why, reason="killed")


def _settle_paused(desk: Desk, trial: TrialRow) -> None:
    if trial.wanted is Wanted.RUN:
        desk.store.move(trial.id, State.PAUSED, State.QUEUED, by="settle", why="resumed")
    elif trial.wanted is Wanted.STOP and trial.checkpoint_step:
        why = f"its checkpoint of step {trial.checkpoint_step} is to be scored and kept"
        desk.store.move(trial.id, State.PAUSED, State.QUEUED, by="settle", why=why)
    elif trial.wanted in (Wanted.STOP, Wanted.KILL):
        _stop_idle(desk, trial)


def _settle_queued(desk: Desk, trial: TrialRow) -> None:
    if trial.wanted is Wanted.PAUSE:
        desk.store.move(
            trial.id, State.QUEUED, State.PAUSED, by="settle", why="paused in the queue"
        )
    elif trial.wanted is Wanted.RUN:
        if not trial.checkpoint_step:
            why = trial.pruned
            desk.store.move(trial.id, State.QUEUED, State.PRUNED, by="settle", why=why, reason=why)
    elif trial.wanted is Wanted.KILL or not trial.checkpoint_step:
        _stop_idle(desk, trial)
    # else: an end with something to keep waits for a card, to be scored there


def _stop_idle(desk: Desk, trial: TrialRow) -> None:
    word = "killed" if trial.wanted is Wanted.KILL else "stopped before its first checkpoint"
    desk.store.move(trial.id, trial.state, State.STOPPED, by="settle", why=word, reason=word)
