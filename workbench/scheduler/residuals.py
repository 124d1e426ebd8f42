"""Predictions on a card corrected by what attempts of the same class measured there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.cards import Card
from workbench.footprint import Plan, residual
from workbench.footprint.choose import limit_bytes
from workbench.footprint.ladder import kind_of
from workbench.footprint.residual import Key, learned
from workbench.scheduler.desk import Desk
from workbench.store.rows import card_of


def known(desk: Desk) -> dict[Key, float]:
    """The factor of each class that has been measured often enough; of GPUs alone: on a CPU card
    the peak is that of all that the process ever held."""
    kinds = {row.uuid: kind_of(card_of(row)) for row in desk.cards if row.kind == "cuda"}
    if not kinds:
        return {}
    if desk.measured is None:
        desk.measured = desk.store.newest_measured()
    if desk.factors is None or desk.factors[0] != desk.measured:
        found = learned(desk.store.measured(), kinds)
        desk.factors = (desk.measured, found)
    return desk.factors[1]


def corrected(desk: Desk, plan: Plan, config: Mapping[str, Any], card: Card) -> Plan:
    """`plan` with the peak that is to be expected."""
    return residual.corrected(plan, _factor(desk, config, card))


def choose(
    desk: Desk,
    make: Callable[[int | None], Plan],
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None,
) -> Plan:
    """The plan that `make` gives for so much room that it fits after its correction, too."""
    limit = limit_bytes(card, free_bytes)
    return residual.fitted(make, _factor(desk, config, card), free_bytes, limit)


def _factor(desk: Desk, config: Mapping[str, Any], card: Card) -> Callable[[Plan], float]:
    return residual.factor_of(known(desk), kind_of(card), config)
