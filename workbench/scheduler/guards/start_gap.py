"""The start gap: cards that go from rest to load do so one after another.

A weak power supply or breaker trips when several cards ramp up at the same moment; each machine of
a cluster has its own. `place` asks `stagger_starts` which free cards may start now, and calls
`note_start` at each start.
"""

from __future__ import annotations

import json

from workbench.fleet import Phase
from workbench.machine.cards import GPU_START_GAP_S, machine_of
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import attempt_history
from workbench.store.rows import CardRow
from workbench.user_config import Guards

REST_SHARE = 1 / 3
"""Share of its power limit below which a card counts as at rest. It is chosen, not measured: to lie
above what a card draws that only holds an idle worker, and below what one draws that trains.
"""
NEXT_TRIAL_S = 3.0
"""Seconds since the end of its last trial for which a worker counts as going to the next one."""
STARTED = "started-at-rest"
"""Fact: by card UUID, the UTC time of its last start from rest, as JSON; it outlives a restart."""


def stagger_starts(context: TickContext, free: dict[str, CardRow], busy: dict[str, str]) -> None:
    """Remove from `free` the cards that may not start yet, because another card just did.

    Their reason is added to `busy`. A card waits only where it is at rest, and only for others
    of its machine that were at rest too.
    """
    guards = context.config().guards
    gaps = {uuid: start_gap_s(row, guards) for uuid, row in free.items()}
    if not any(gaps.values()):
        return
    now = context.store.clock()
    started: dict[str, list[tuple[str, float]]] = {}
    for card, at_utc in _started(context).items():
        started.setdefault(machine_of(card), []).append((card, at_utc))
    for uuid, gap_s in gaps.items():
        there = started.get(machine_of(uuid), ())
        since = [now - at_utc for card, at_utc in there if card != uuid]
        # Below 0 the clock was set back.
        if any(0 <= one < gap_s for one in since) and is_at_rest(context, free[uuid]):
            busy[uuid] = f"starts {gap_s:g} s after the one before it"
            del free[uuid]


def note_start(context: TickContext, row: CardRow) -> None:
    """Record a start on the card, where the start takes it from rest to load."""
    gap_s = start_gap_s(row, context.config().guards)
    if gap_s and is_at_rest(context, row):
        now = context.store.clock()
        started = {**_started(context), row.uuid: now}
        kept = {uuid: at_utc for uuid, at_utc in started.items() if now - at_utc < gap_s}
        context.store.set_fact(STARTED, json.dumps(kept))


def start_gap_s(row: CardRow, guards: Guards) -> float:
    """Return the seconds between the start on another card and one on this card."""
    if guards.start_gap_s is not None:
        return guards.start_gap_s
    return GPU_START_GAP_S if row.kind == "cuda" else 0.0


def is_at_rest(context: TickContext, row: CardRow) -> bool:
    """Return False where a start adds little load.

    The card drew power in its newest sample, or its worker goes from one trial to the next. A card
    that does not report its power counts as at rest.
    """
    watts, limit_w = row.power_w, row.power_limit_w
    draws = watts is not None and limit_w is not None and watts >= REST_SHARE * limit_w
    return not (draws or _goes_on(context, row))


def _goes_on(context: TickContext, row: CardRow) -> bool:
    """Return True where the card's worker ended a trial just now.

    In the tick that reads the end its newest report may still say that it is busy with it.
    """
    report = context.reports.get(row.uuid)
    if report is None or report.phase not in (Phase.IDLE, Phase.BUSY):
        return False
    ended_utc = attempt_history.last_end(context.store, row.uuid)
    return ended_utc is not None and 0 <= context.store.clock() - ended_utc < NEXT_TRIAL_S


def _started(context: TickContext) -> dict[str, float]:
    return dict(json.loads(context.store.fact(STARTED) or "{}"))
