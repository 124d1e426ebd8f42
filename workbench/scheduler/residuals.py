"""Predictions on a card corrected by what attempts of the same class measured there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from workbench.cards import Card
from workbench.errors import DoesNotFit
from workbench.footprint import Plan
from workbench.footprint.choose import limit_bytes
from workbench.footprint.ladder import kind_of, raw_bytes
from workbench.footprint.residual import Key, Measured, factors, key_of
from workbench.scheduler.desk import Desk, card_of


def known(desk: Desk) -> dict[Key, float]:
    """The factor of each class that has been measured often enough; of GPUs alone: on a CPU card
    the peak is that of all that the process ever held."""
    kinds = {row.uuid: kind_of(card_of(row)) for row in desk.cards if row.kind == "cuda"}
    if not kinds:
        return {}
    if desk.measured is None:
        desk.measured = desk.store.newest_measured()
    if desk.factors is None or desk.factors[0] != desk.measured:
        found = factors(
            Measured(
                key=key_of(kinds[card], config, plan),
                predicted_bytes=raw_bytes(plan),
                peak_bytes=peak,
            )
            for card, plan, peak, config in desk.store.measured()
            if card in kinds
        )
        desk.factors = (desk.measured, found)
    return desk.factors[1]


def corrected(desk: Desk, plan: Plan, config: Mapping[str, Any], card: Card) -> Plan:
    """`plan` with the peak that is to be expected."""
    factor = known(desk).get(key_of(kind_of(card), config, plan.to_json()), 1.0)
    return replace(plan, predicted_bytes=int(raw_bytes(plan.to_json()) * factor))


def choose(
    desk: Desk,
    make: Callable[[int | None], Plan],
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None,
) -> Plan:
    """The plan that `make` gives for so much room that it fits after its correction, too."""
    limit, tighter = limit_bytes(card, free_bytes), 1.0
    plan = corrected(desk, make(free_bytes), config, card)
    while plan.predicted_bytes > limit:
        tighter = max(tighter * 1.001, plan.predicted_bytes / raw_bytes(plan.to_json()))
        try:
            plan = corrected(desk, make(int(limit / tighter)), config, card)
        except DoesNotFit as refused:
            more = f"; by what was measured here, it takes {tighter - 1:.0%} more than that"
            raise DoesNotFit(refused.what + more, mend=refused.mend) from None
    return plan
