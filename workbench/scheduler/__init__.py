"""The scheduler: one tick of the engine, a few times a second.

A tick runs guard → process_requests → reconcile → recover → propose_trials → place → conclude. Each
step reads the store and the fleet through one TickContext and writes through the store; a step that
is killed at any line is repeated by the next tick. The engine's loop calls `tick`. Nothing here may
import ray, torch or a front end.
"""

from workbench.scheduler.conclude import conclude
from workbench.scheduler.guards.card_guards import guard_cards
from workbench.scheduler.place import place
from workbench.scheduler.process_requests import process_requests
from workbench.scheduler.propose_trials import propose_trials
from workbench.scheduler.reconcile import reconcile
from workbench.scheduler.recover import recover
from workbench.scheduler.tick_context import TickContext
from workbench.scheduler.workers.spare_worker import keep_spare_worker

__all__ = [
    "TickContext",
    "conclude",
    "guard_cards",
    "place",
    "process_requests",
    "propose_trials",
    "reconcile",
    "recover",
    "tick",
]


def tick(context: TickContext) -> None:
    """Do everything that is due now, step by step. Takes 1 to 20 ms and waits for nothing."""
    context.refresh()
    guard_cards(context)
    process_requests(context)
    reconcile(context)
    recover(context)
    context.cards = context.store.cards()  # cards whose attempts have ended are free from here on
    propose_trials(context)
    place(context)
    keep_spare_worker(context)
    conclude(context)
