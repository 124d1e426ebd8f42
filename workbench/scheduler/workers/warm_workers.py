"""Workers started ahead: they import their libraries while an experiment is being prepared.

A worker's imports and its CUDA context take about as long as preparing small data, so a first trial
would wait for both in turn. `place` calls `warm_workers` with the cards that it left free.
"""

from __future__ import annotations

from collections.abc import Iterable

from workbench.machine.cards import Card, is_elsewhere
from workbench.recipe.space import trial_count
from workbench.scheduler.plans.planning import experiment_recipe
from workbench.scheduler.tick_context import TickContext
from workbench.store import trial_queue
from workbench.store.rows import CardRow, Experiment, card_of


def warm_workers(context: TickContext, free: Iterable[CardRow]) -> None:
    """Create workers on free cards without one, for the trials of what is being prepared.

    As many as its trials can use, on the cards that `place` would choose first, and once for a card
    and experiment: a worker that does not start is reported by the trial that needs it.
    """
    preparing = [one for one in trial_queue.preparing_experiments(context.store) if not one.held]
    if not preparing:
        return
    cards = sorted(map(card_of, free), key=_order)
    for experiment in preparing:
        for card in cards[: _most_at_once(experiment, len(cards))]:
            if (
                card.uuid not in context.reports
                and (experiment.id, card.uuid) not in context.warmed
            ):
                context.warmed.add((experiment.id, card.uuid))
                context.fleet.warm(card)


def _order(card: Card) -> tuple[int, bool, str]:
    return card.usable_bytes, is_elsewhere(card.uuid), card.uuid


def _most_at_once(experiment: Experiment, cards: int) -> int:
    """Return how many cards the experiment's trials can use at once, its base's score included."""
    trials = trial_count(experiment_recipe(experiment).sweep)
    at_once = cards if trials is None else 1 + trials
    return min(at_once, experiment.max_parallel or cards)
