"""The spare worker: one process of the machine that is ready to replace a worker which ends.

It is kept once there was a worker to replace, where the user's configuration and the machine's
memory allow it. `fleet.spare_worker` starts it, and gives it to the next card without a worker.
"""

from __future__ import annotations

from workbench.fleet import Phase
from workbench.machine.cards import Card, is_elsewhere
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import card_of

GIB = 1 << 30
LEAST_TOTAL_BYTES = 12 * GIB
"""The machine's memory from which on a spare is kept without being asked for."""
SPARE_BYTES = GIB // 2
"""Bytes of the machine's memory that a spare may take, without the files that it shares with other
workers."""
KEEP_SHARE, START_SHARE = 0.1, 0.2
"""Shares of the machine's memory: below the first a spare is ended, before loads wait (8 %) or
training does (6 %); one is started only where the second is left over beside it."""


def keep_spare_worker(context: TickContext) -> None:
    """Let the fleet keep a spare, or keep none; repeated by each tick."""
    context.fleet.keep_spare(_card_to_stand_by(context))


def _card_to_stand_by(context: TickContext) -> Card | None:
    """Return a card of this machine that a spare could work for; None where none is to be kept.

    Workers live as long as the engine, so there is one to replace from the first on, also in the
    moments in which the only one has ended.
    """
    context.had_worker |= any(one.phase is not Phase.GONE for one in context.reports.values())
    if context.stopping or not context.had_worker or not _is_allowed(context):
        return None
    for row in context.cards:
        here = not is_elsewhere(row.uuid)
        if here and row.present and not (row.drained or row.quarantined):
            return card_of(row)
    return None


def _is_allowed(context: TickContext) -> bool:
    """Return whether configuration and memory allow a spare."""
    available, total = context.host_memory()
    wanted = context.config().workers.spare
    if wanted is None:
        wanted = total >= LEAST_TOTAL_BYTES
    left = available if context.spare_has_room else available - SPARE_BYTES
    least = KEEP_SHARE if context.spare_has_room else START_SHARE
    context.spare_has_room = left >= least * total
    return wanted and context.spare_has_room
