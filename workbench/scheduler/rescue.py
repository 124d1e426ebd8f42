"""What was lost with its worker goes back into the queue, from its last checkpoint."""

from __future__ import annotations

import os
from itertools import takewhile

from workbench import faults
from workbench.events import Outcome
from workbench.fleet import Halt, Phase, Report
from workbench.scheduler import guards
from workbench.scheduler.desk import Desk
from workbench.scheduler.disk import how_lost
from workbench.scheduler.settle import take_in
from workbench.store.rows import Attempt
from workbench.text import safe_line
from workbench.trial import State

SILENT_LIMIT_S = float(os.environ.get("WORKBENCH_SILENT_S") or 120.0)
"""A worker whose control thread says nothing for so long is replaced; it is asked all the while."""
STILL_LIMIT_S = float(os.environ.get("WORKBENCH_STILL_S") or 7_200.0)
"""Training that makes no progress for so long hangs, whatever its control thread says: far above
the slowest optimizer step, and below never."""
ASK_SHARE = 0.8
"""Of that time, after which it is asked to checkpoint and give its card back."""
START_LIMIT_S = 300.0
"""An attempt that no worker has taken for so long is placed anew."""
BARREN_LIMIT = 3
"""Attempts lost in a row without a new checkpoint, after which a trial fails."""


def rescue(desk: Desk) -> None:
    for attempt in desk.store.live_attempts():
        why = _lost(desk, attempt)
        if why:
            lose(desk, attempt, why, how_lost(desk))
            _blame(desk, attempt.card)
        elif attempt.id in desk.unsendable:
            lose(desk, attempt, desk.unsendable.pop(attempt.id), Outcome.CUT)


def rescue_all(desk: Desk, why: str) -> None:
    """At the loop's start: whatever was running ran on workers that are gone."""
    for attempt in desk.store.live_attempts():
        lose(desk, attempt, why, Outcome.CUT)


def _lost(desk: Desk, attempt: Attempt) -> str:
    """Why its worker will never end this attempt; empty while it may."""
    if why := guards.unfit(desk, attempt):
        desk.fleet.end(attempt.card, why)
        return why
    report = desk.reports.get(attempt.card)
    if report is None:
        if desk.store.clock() - attempt.started_utc > START_LIMIT_S:
            return f"no worker took it within {START_LIMIT_S:.0f} s"
        return ""
    if report.phase is Phase.GONE:
        return f"the worker of {attempt.card} went away: {safe_line(report.reason, 300)}"
    if report.silent_s > SILENT_LIMIT_S and report.phase is not Phase.STARTING:
        why = f"the worker of {attempt.card} did not answer for {report.silent_s:.0f} s"
        desk.fleet.end(attempt.card, why)
        return why
    still_s = float((report.data or {}).get("still_s") or 0.0)
    if report.attempt == attempt.id and still_s > STILL_LIMIT_S:
        why = f"training on {attempt.card} made no progress for {still_s / 60:.0f} min"
        desk.fleet.end(attempt.card, why)
        return why
    if report.attempt == attempt.id and still_s > ASK_SHARE * STILL_LIMIT_S:
        _ask_back(desk, attempt, still_s)
    if _dropped(report, attempt):
        return f"the worker of {attempt.card} is idle, and left no record of the attempt's end"
    return ""


def _ask_back(desk: Desk, attempt: Attempt, still_s: float) -> None:
    """It may only be slow: then it checkpoints, and goes on elsewhere."""
    desk.fleet.halt(attempt.card, attempt.id, Halt.YIELD)
    if attempt.halt is not None:
        return
    with desk.store.writing():
        desk.store.touch_attempt(attempt.id, halt=Halt.YIELD)
        desk.store.note(
            "hangs",
            f"trial {attempt.trial} made no progress on {attempt.card} for {still_s / 60:.1f} min; "
            "it was asked for a checkpoint, and is replaced if none comes",
            level="warning",
            trial=attempt.trial,
            attempt=attempt.id,
        )


def _dropped(report: Report, attempt: Attempt) -> bool:
    return report.phase is Phase.IDLE and (report.last_attempt or 0) >= attempt.id


def lose(desk: Desk, attempt: Attempt, why: str, outcome: Outcome = Outcome.LOST) -> None:
    """End the attempt so, unless its file says that it ended by itself."""
    if _ended_by_itself(desk, attempt):
        return
    with desk.store.writing():
        desk.store.end_attempt(attempt.id, outcome, why)
        trial = desk.store.trial(attempt.trial)
        verdict = hopeless(desk.store.attempts(trial.id))
        after = State.FAILED if verdict else State.QUEUED
        since = f"goes on from step {trial.checkpoint_step}" if trial.checkpoint_step else "again"
        desk.store.move(
            trial.id,
            trial.state,
            after,
            by="rescue",
            why=f"{why}; {verdict or since}",
            reason=verdict,
            mend="look at its log (workbench logs), then run it again" if verdict else "",
        )
        desk.store.note(
            "lost",
            f"trial {trial.id}: {why}; {verdict or since}",
            level="error" if verdict else "warning",
            trial=trial.id,
            attempt=attempt.id,
            experiment=trial.experiment,
        )
        faults.at("rescue.before_commit")
    faults.at("rescue.after_commit")


def _ended_by_itself(desk: Desk, attempt: Attempt) -> bool:
    """True when its file, read to the last line, holds its end."""
    before = -1
    while attempt.offset != before:
        before = attempt.offset
        if take_in(desk, attempt) is not None:
            return True
        attempt = desk.store.attempt(attempt.id)
    return False


def hopeless(attempts: list[Attempt]) -> str:
    """Why a trial is not tried again; empty while it may be. `attempts` oldest first."""
    gone = (Outcome.LOST, Outcome.CUT)
    lost = list(takewhile(lambda a: a.outcome in gone, reversed(attempts)))
    barren = list(takewhile(lambda a: a.checkpoint_step is None, lost))
    if len(barren) >= BARREN_LIMIT:
        reasons = "; ".join(a.reason for a in reversed(barren[:BARREN_LIMIT]))
        return f"{len(barren)} attempts in a row ended without a new checkpoint: {reasons}"
    if _same_step(lost):
        return f"two attempts in a row ended at step {lost[0].last_step}: {lost[0].reason}"
    return ""


def _same_step(lost: list[Attempt]) -> bool:
    """True when the two newest died at one step with their workers: it is the step's doing."""
    if len(lost) < 2 or any(a.outcome != Outcome.LOST for a in lost[:2]):
        return False
    newest, former = lost[:2]
    return newest.checkpoint_step is None and (
        newest.last_step == former.last_step > newest.from_step
    )


def _blame(desk: Desk, card: str) -> None:
    """A card that loses two different trials, with none finished between, gets no more."""
    if any(row.uuid == card and row.quarantined for row in desk.cards):
        return
    trials = desk.store.lost_in_a_row(card)
    if len(set(trials)) >= 2:
        why = f"lost trials {' and '.join(str(t) for t in sorted(set(trials)))} in a row"
        desk.store.quarantine(card, why)
        desk.store.note("quarantined", f"card {card} is quarantined: it {why}", level="error")
