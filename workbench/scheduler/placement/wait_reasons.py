"""The words for why nothing is placed, a card takes no trial, or a queued trial waits."""

from __future__ import annotations

from workbench.attempts.events import Outcome
from workbench.fleet import Phase, Report
from workbench.formatting import describe_programs, plural
from workbench.machine.cards import is_elsewhere
from workbench.machine.locks import lock_holder
from workbench.scheduler.guards import idle_programs
from workbench.scheduler.guards.disk import DISK_LOW
from workbench.scheduler.placement.near_bases import base_of
from workbench.scheduler.plans.remembered_plans import could_take
from workbench.scheduler.tick_context import BRAKE, CARDS_PROBLEM, HELD, TickContext
from workbench.store.queries import attempt_history
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of

FILLED_S = 5.0
"""Seconds without a trial for a card whose memory another program took, so that its next readings
show that program. Doubled each time in a row that this happens there, up to MOST_DOUBLED."""
MOST_DOUBLED = 5
REASONS_SHOWN = 16
"""Cards that the reason of a waiting trial names one by one."""


def reason_to_place_nothing(context: TickContext) -> str:
    """Return why nothing at all is placed now; an empty string when something may be."""
    if context.stopping:
        return "the engine is stopping"
    brake = context.store.fact(BRAKE)
    if brake:
        return brake
    if context.store.fact(HELD):
        return "the queue is held; `workbench release` lets it go on"
    if not any(row.present for row in context.cards):
        return context.store.fact(CARDS_PROBLEM) or "no card has been seen yet"
    if low := context.store.fact(DISK_LOW):
        return low
    return "" if context.fleet_ready() else "Ray is starting"


def busy_reason(context: TickContext, row: CardRow) -> str:
    """Return why this card takes no trial now; an empty string when it does."""
    if not row.present:
        return "gone"
    if row.quarantined:
        return f"quarantined ({row.quarantined})"
    if row.drained:
        return "drained"
    if row.problem:
        return row.problem
    if row.trial is not None:
        return f"runs trial {row.trial}"
    if row.guard:
        return row.guard
    report = context.reports.get(row.uuid)
    if report is not None and _is_working(context, report):
        return "its worker is not free yet"
    if (
        report is None
        and (pid := lock_holder(context.home.card_lock(row.uuid, row.kind))) is not None
    ):
        return f"is in the hands of process {pid}"  # an old worker's, or another home's
    return _filled_reason(context, row)


def _filled_reason(context: TickContext, row: CardRow) -> str:
    """Return that another program has just taken the card's memory; empty where none has."""
    times, ended_utc = attempt_history.filled_by_others(context.store, row.uuid, MOST_DOUBLED)
    wait_s = FILLED_S * 2 ** (times - 1)
    just_now = times and 0 <= context.store.clock() - ended_utc < wait_s
    return f"another program took its memory; tried again within {wait_s:.0f} s" if just_now else ""


def _is_working(context: TickContext, report: Report) -> bool:
    """Return False for a worker that can be given a trial.

    It is idle, or its attempt has written its end since it reported. In the second case it may
    still refuse, and `reconcile` sends the trial again.
    """
    if report.phase is not Phase.BUSY or report.attempt is None:
        return report.phase in (Phase.BUSY, Phase.GONE)
    outcome = context.store.attempt(report.attempt).outcome
    ended = outcome in (Outcome.DONE, Outcome.STOPPED, Outcome.YIELDED)
    return not ended or is_elsewhere(report.card)  # files of a card elsewhere may be on their way


def able_cards(context: TickContext, trial: TrialRow, experiment: Experiment) -> list[CardRow]:
    """Return the known cards that could take the trial if all of them were free.

    A card that is absent for now counts as known, because it may come back: its driver did not
    load, its riser is loose.
    """
    takes: dict[tuple[object, ...], bool] = {}
    able = []
    for row in context.cards:
        key = card_of(row).plan_key
        if key not in takes:
            takes[key] = could_take(context, trial, experiment, row)
        able += [row] * takes[key]
    return able


def wait_for_one(
    context: TickContext, trial: TrialRow, experiment: Experiment, busy: dict[str, str]
) -> str:
    """Return what a trial waits for that a person has pinned to a card.

    `busy` holds for each card why it takes no trial; an empty text for those that are free.
    """
    base = base_of(trial, experiment)[0]
    pinned = [row for row in context.cards if row.uuid == trial.desired_card]
    free = [_lack(context, row, base) for row in pinned] or ["it is unknown"]
    reason = busy.get(trial.desired_card or "") or free[0]
    if not any(row.present for row in pinned):
        reason += "; `workbench move` takes the trial to another card, or to any"
    return f"waits for {trial.desired_card}: {reason}"


def wait_for_any(
    context: TickContext,
    trial: TrialRow,
    experiment: Experiment,
    able: list[CardRow],
    busy: dict[str, str],
) -> str:
    """Return what a trial waits for on each of the cards that are `able` to take it.

    Returns an empty string without any. `busy` is that of `wait_for_one`.
    """
    base = base_of(trial, experiment)[0]
    reasons = "; ".join(
        f"{row.uuid} {busy[row.uuid] or f'has {_lack(context, row, base)}'}"
        for row in able[:REASONS_SHOWN]
    )
    more = len(able) - REASONS_SHOWN
    reasons += f"; and {plural(more, 'more card')}" if more > 0 else ""
    return f"waits for a card: {reasons}" if reasons else ""


def _lack(context: TickContext, row: CardRow, base: str) -> str:
    """Return what keeps a trial with that base from a card that is free."""
    if not context.fleet.has_room(row.uuid, base):
        return "no room for the base on its machine's disk"
    return _too_little_free(context, row)


def _too_little_free(context: TickContext, row: CardRow) -> str:
    """Return `too little free`, with the idle programs that hold the rest where there are any."""
    idle = idle_programs.idle_programs(row, context.config().guards)
    beside = f" beside {describe_programs(idle)}" if idle else ""
    return f"too little free{beside}"
