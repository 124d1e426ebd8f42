"""Which free card a trial gets: the smallest that fits, and of those the one nearest its base.

Nearest is a card whose worker holds the base, then one whose machine has the weights, then one to
which they have to be sent. `place` makes a FreeCards for each tick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.fleet import Phase
from workbench.fleet.bases import base_label
from workbench.machine.cards import Card, is_elsewhere, machine_of
from workbench.scheduler.guards.idle_programs import idle_programs
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import CardRow, Experiment, TrialRow, card_of
from workbench.user_config import Guards

GIB = 1 << 30
HELD, SENT_BEFORE, TO_SEND = range(3)
"""How near a base is to a card."""
Base = tuple[str, str]
"""Label of the weights, and the settings with which they are loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Free:
    row: CardRow
    card: Card
    base: Base | None
    """The base that its worker holds; None where it holds none."""
    key: tuple[int, bool]
    """Size in GiB, and whether idle programs hold a part: what counts before the base."""


class FreeCards:
    """The free cards of one tick, in the order in which a trial may take one.

    Sizes are compared in whole GiB: cards of one size differ by some MiB, for which no base should
    travel. Among equally near cards those of this machine come first, then the smaller.
    """

    def __init__(self, context: TickContext, free: Mapping[str, CardRow]) -> None:
        self._context, self._free = context, free
        guards = context.config().guards
        every = [_described(context, row, guards) for row in free.values()]
        # Sorting by `nearest_first` keeps this order among equals.
        self._cards = sorted(every, key=_tie_key)
        self._sent: dict[tuple[str, str], bool] = {}

    def nearest_first(
        self, trial: TrialRow, experiment: Experiment
    ) -> Iterator[tuple[CardRow, Card]]:
        """Yield the cards that are still free, in the order for this trial.

        None is on a machine whose disk had no room for the base.
        """
        base = base_of(trial, experiment)
        ordered = sorted(self._cards, key=lambda one: (*one.key, self._distance(one, base)))
        has_room = self._context.fleet.has_room
        return (
            (one.row, one.card)
            for one in ordered
            if one.row.uuid in self._free and has_room(one.row.uuid, base[0])
        )

    def _distance(self, one: _Free, base: Base) -> int:
        if one.base == base:
            return HELD
        machine, label = machine_of(one.row.uuid), base[0]
        if (machine, label) not in self._sent:
            self._sent[machine, label] = self._context.fleet.has_base(one.row.uuid, label)
        return SENT_BEFORE if self._sent[machine, label] else TO_SEND


def _described(context: TickContext, row: CardRow, guards: Guards) -> _Free:
    card = card_of(row)
    shared = bool(idle_programs(row, guards))
    key = (round(card.usable_bytes / GIB), shared)
    return _Free(row=row, card=card, base=held_base(context, row), key=key)


def _tie_key(one: _Free) -> tuple[bool, int, str]:
    return is_elsewhere(one.row.uuid), one.card.usable_bytes, one.row.uuid


def base_of(trial: TrialRow, experiment: Experiment) -> Base:
    """Return the base on which the trial trains; equal for trials that one loaded base serves."""
    own = {
        key.removeprefix("model."): value
        for key, value in trial.settings.items()
        if key.startswith("model.")
    }
    model: dict[str, Any] = {**experiment.recipe["model"], **own}
    loaded = {key: model[key] for key in sorted(model) if key not in ("name", "revision")}
    return base_label(model, experiment.prepared), str(loaded)


def held_base(context: TickContext, row: CardRow) -> Base | None:
    """Return the base that the card's worker holds since its last attempt; None without one.

    A worker that has just ended an attempt holds its base, although it reported before that.
    """
    report = context.reports.get(row.uuid)
    if report is None or report.last_attempt is None or report.phase is Phase.GONE:
        return None
    if report.phase is Phase.IDLE and not (report.data or {}).get("base"):
        return None
    known = context.held_bases.get(row.uuid)
    if known is None or known[0] != report.last_attempt:
        trial = context.store.trial(context.store.attempt(report.last_attempt).trial)
        base = base_of(trial, context.store.experiment(trial.experiment))
        known = context.held_bases[row.uuid] = (report.last_attempt, base)
    return known[1]
