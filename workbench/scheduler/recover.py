"""Recovery: trials that lost their worker return to the queue and continue from a checkpoint."""

from __future__ import annotations

import os
from itertools import takewhile

from workbench import fault_points
from workbench.attempts.events import Outcome
from workbench.attempts.scorer_marks import running_scorers
from workbench.fleet import Halt, Phase, Report
from workbench.fleet.trial_fence import call_off
from workbench.scheduler.guards import card_guards
from workbench.scheduler.guards.disk import outcome_when_lost
from workbench.scheduler.reconcile import ingest_attempt
from workbench.scheduler.tick_context import TickContext, events_file
from workbench.store import card_table
from workbench.store.queries import attempt_history
from workbench.store.rows import AttemptRow
from workbench.text import safe_line
from workbench.trial import State

SILENT_LIMIT_S = float(os.environ.get("WORKBENCH_SILENT_S") or 120.0)
"""Seconds without an answer of its control thread after which a worker is replaced."""
STILL_LIMIT_S = float(os.environ.get("WORKBENCH_STILL_S") or 7_200.0)
"""Seconds without progress after which training counts as hanging, whatever the worker's control
thread answers: far above the slowest optimizer step.
"""
ASK_AFTER_SHARE = 0.8
"""Share of STILL_LIMIT_S after which the worker is asked to checkpoint and yield."""
START_LIMIT_S = 300.0
"""Seconds after which an attempt that no worker has accepted is placed again."""
BARREN_LIMIT = 3
"""Attempts lost in a row without a new checkpoint, after which a trial fails."""


def recover(context: TickContext) -> None:
    """End attempts whose workers are gone, hang or are silent; requeue their trials."""
    live = context.store.live_attempts()
    _end_stale_workers(context, {attempt.id for attempt in live})
    for attempt in live:
        why = _lost(context, attempt)
        if _record_removed(context, attempt):
            why = f"the folder of attempt {attempt.id} was removed while it ran"
            lose_attempt(context, attempt, why, Outcome.CUT)  # neither card nor trial is to blame
        elif why and (scorers := running_scorers(context.home.trial(attempt.trial), attempt.id)):
            # A user's own scorer can end its worker: neither card nor trial is to blame. After some
            # such losses the worker does without the scorer.
            why = f"{why}, while the scorer {' and '.join(map(safe_line, scorers))} ran"
            lose_attempt(context, attempt, why, Outcome.CUT)
        elif why and _went_with_its_machine(context, attempt):
            lose_attempt(context, attempt, why, Outcome.CUT)  # neither card nor trial is to blame
        elif why:
            lose_attempt(context, attempt, why, outcome_when_lost(context))
            _quarantine_repeat_offender(context, attempt.card)
        elif attempt.id in context.unsendable:
            lose_attempt(context, attempt, context.unsendable.pop(attempt.id), Outcome.CUT)


def _end_stale_workers(context: TickContext, live: set[int]) -> None:
    """End workers that hang in a called-off attempt: the trial's next attempt waits for them."""
    for card, report in context.reports.items():
        if report.attempt is None or report.attempt in live or report.phase is Phase.GONE:
            continue
        still_s = float((report.data or {}).get("still_s") or 0.0)
        if report.silent_s > SILENT_LIMIT_S or still_s > STILL_LIMIT_S:
            context.fleet.end(card, f"it hung in attempt {report.attempt}, which was called off")


def requeue_all(context: TickContext, why: str) -> None:
    """End every live attempt with outcome `cut`: at the loop's start, their workers are gone."""
    for attempt in context.store.live_attempts():
        # `cut` and not `lost`: neither the card nor the trial had anything to do with it.
        lose_attempt(context, attempt, why, Outcome.CUT)


def _lost(context: TickContext, attempt: AttemptRow) -> str:
    """Return why the attempt's worker will never end it; an empty string while it may."""
    if why := card_guards.why_unfit(context, attempt):
        context.fleet.end(attempt.card, why)
        return why
    report = context.reports.get(attempt.card)
    if report is None:
        # The loop has just started, or the head is still coming up: neither is the worker's fault.
        if context.store.clock() - attempt.started_utc > START_LIMIT_S:
            return f"no worker took it within {START_LIMIT_S:.0f} s"
        return ""
    if report.phase is Phase.GONE:
        return f"the worker of {attempt.card} went away: {safe_line(report.reason, 300)}"
    if report.silent_s > SILENT_LIMIT_S and report.phase is not Phase.STARTING:
        why = f"the worker of {attempt.card} did not answer for {report.silent_s:.0f} s"
        context.fleet.end(attempt.card, why)
        return why
    still_s = float((report.data or {}).get("still_s") or 0.0)
    if report.attempt == attempt.id and still_s > STILL_LIMIT_S:
        why = f"training on {attempt.card} made no progress for {still_s / 60:.0f} min"
        context.fleet.end(attempt.card, why)
        return why
    if report.attempt == attempt.id and still_s > ASK_AFTER_SHARE * STILL_LIMIT_S:
        _request_checkpoint(context, attempt, still_s)
    if _dropped(report, attempt):
        return f"the worker of {attempt.card} is idle, and left no record of the attempt's end"
    return ""


def _request_checkpoint(context: TickContext, attempt: AttemptRow, still_s: float) -> None:
    """Ask a worker that makes no progress to checkpoint and yield.

    It may only be slow, and its trial then continues elsewhere.
    """
    context.fleet.halt(attempt.card, attempt.id, Halt.YIELD)
    if attempt.halt is not None:
        return
    with context.store.writing():
        context.store.touch_attempt(attempt.id, halt=Halt.YIELD)
        context.store.note(
            "hangs",
            f"trial {attempt.trial} made no progress on {attempt.card} for {still_s / 60:.1f} min; "
            "it was asked for a checkpoint, and is replaced if none comes",
            level="warning",
            trial=attempt.trial,
            attempt=attempt.id,
        )


def _dropped(report: Report, attempt: AttemptRow) -> bool:
    return report.phase is Phase.IDLE and (report.last_attempt or 0) >= attempt.id


def _went_with_its_machine(context: TickContext, attempt: AttemptRow) -> bool:
    report = context.reports.get(attempt.card)
    return report is not None and report.is_blameless


def _record_removed(context: TickContext, attempt: AttemptRow) -> bool:
    """Return True where the worker ended the attempt because its event file was removed."""
    report = context.reports.get(attempt.card)
    if report is None or not _dropped(report, attempt):
        return False
    return not events_file(context.home, attempt.id).exists()


def lose_attempt(
    context: TickContext, attempt: AttemptRow, why: str, outcome: Outcome = Outcome.LOST
) -> None:
    """End the attempt with `outcome`, unless its event file says that it ended by itself.

    Its trial returns to the queue, or fails where why_hopeless gives a reason; both are reported.
    """
    if _ended_by_itself(context, attempt):
        return
    call_off(context.home.trial(attempt.trial))
    with context.store.writing():
        context.store.end_attempt(attempt.id, outcome, why)
        trial = context.store.trial(attempt.trial)
        verdict = why_hopeless(context.store.attempts(trial.id))
        after = State.FAILED if verdict else State.QUEUED
        since = f"goes on from step {trial.checkpoint_step}" if trial.checkpoint_step else "again"
        context.store.move(
            trial.id,
            trial.state,
            after,
            by="recover",
            why=f"{why}; {verdict or since}",
            reason=verdict,
            hint="look at its log (workbench logs), then run it again" if verdict else "",
        )
        context.store.note(
            "lost",
            f"trial {trial.id}: {why}; {verdict or since}",
            level="error" if verdict else "warning",
            trial=trial.id,
            attempt=attempt.id,
            experiment=trial.experiment,
        )
        fault_points.at("recover.before_commit")
    fault_points.at("recover.after_commit")


def _ended_by_itself(context: TickContext, attempt: AttemptRow) -> bool:
    """Return True when the attempt's event file, read to its last line, holds its end."""
    before = -1
    while attempt.offset != before:
        before = attempt.offset
        if ingest_attempt(context, attempt) is not None:
            return True
        attempt = context.store.attempt(attempt.id)
    return False


def why_hopeless(attempts: list[AttemptRow]) -> str:
    """Return why a trial is not tried again; an empty string while it may be.

    `attempts` are all of the trial's, oldest first.
    """
    gone = (Outcome.LOST, Outcome.CUT)
    # An engine that ended before any worker began an attempt says nothing about the trial.
    begun = [a for a in attempts if a.outcome != Outcome.CUT or a.reported_utc is not None]
    lost = list(takewhile(lambda a: a.outcome in gone, reversed(begun)))
    barren = list(takewhile(lambda a: a.checkpoint_step is None, lost))
    if len(barren) >= BARREN_LIMIT:
        reasons = "; ".join(a.reason for a in reversed(barren[:BARREN_LIMIT]))
        return f"{len(barren)} attempts in a row ended without a new checkpoint: {reasons}"
    if _same_step(lost):
        return f"two attempts in a row ended at step {lost[0].last_step}: {lost[0].reason}"
    return ""


def _same_step(lost: list[AttemptRow]) -> bool:
    """Return True when the two newest attempts died at one step with their workers.

    The step itself is then the likely cause.
    """
    if len(lost) < 2 or any(a.outcome != Outcome.LOST for a in lost[:2]):
        return False
    newest, former = lost[:2]
    return newest.checkpoint_step is None and (
        newest.last_step == former.last_step > newest.from_step
    )


def _quarantine_repeat_offender(context: TickContext, card: str) -> None:
    """Quarantine a card that lost two different trials with none finished between."""
    if any(row.uuid == card and row.quarantined for row in context.cards):
        return
    trials = attempt_history.lost_in_a_row(context.store, card)
    if len(set(trials)) >= 2:
        why = f"lost trials {' and '.join(str(t) for t in sorted(set(trials)))} in a row"
        card_table.set_quarantine(context.store, card, why)
        context.store.note("quarantined", f"card {card} is quarantined: it {why}", level="error")
