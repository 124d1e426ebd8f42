"""The peaks that the home's finished attempts measured, as the planner takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.service import Service
from workbench.store.rows import card_of

if TYPE_CHECKING:
    from workbench.footprint import History
    from workbench.machine.cards import Card


def measured_history(service: Service, named: Card | None = None) -> History:
    """Return the correction factors that the engine would plan with; none where it never ran.

    `named` is a usual card that a person asked about: attempts on any card of that name count for
    it, whatever that card's exact size and cap.
    """
    from workbench.footprint import NO_HISTORY, History
    from workbench.footprint.measured_peaks import learn_factors
    from workbench.footprint.oom_fallback import hardware_key
    from workbench.footprint.usual_cards import everyday_name

    def stands_for(card: Card) -> Card:
        if named is None or card.kind != named.kind:
            return card
        return named if everyday_name(card.name) == everyday_name(named.name) else card

    cards = [card_of(row) for row in service.snapshot().cards if row.kind == "cuda"]
    if not cards:
        return NO_HISTORY
    hardware = {card.uuid: hardware_key(stands_for(card)) for card in cards}
    return History(factors=learn_factors(service.measured(), hardware))
