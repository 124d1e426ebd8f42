"""Predictions on a card corrected by what attempts of the same class measured there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.footprint import Plan, measured_peaks
from workbench.footprint.choose import limit_bytes
from workbench.footprint.measured_peaks import Key, learned
from workbench.footprint.oom_fallback import kind_of
from workbench.machine.cards import Card
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import card_of


def known(context: TickContext) -> dict[Key, float]:
    """The factor of each class that has been measured often enough; of GPUs alone: on a CPU card
    the peak is that of all that the process ever held."""
    kinds = {row.uuid: kind_of(card_of(row)) for row in context.cards if row.kind == "cuda"}
    if not kinds:
        return {}
    if context.measured is None:
        context.measured = context.store.newest_measured()
    if context.factors is None or context.factors[0] != context.measured:
        found = learned(context.store.measured(), kinds)
        context.factors = (context.measured, found)
    return context.factors[1]


def corrected(context: TickContext, plan: Plan, config: Mapping[str, Any], card: Card) -> Plan:
    """`plan` with the peak that is to be expected."""
    return measured_peaks.corrected(plan, _factor(context, config, card))


def choose(
    context: TickContext,
    make: Callable[[int | None], Plan],
    config: Mapping[str, Any],
    card: Card,
    free_bytes: int | None,
) -> Plan:
    """The plan that `make` gives for so much room that it fits after its correction, too."""
    limit = limit_bytes(card, free_bytes)
    return measured_peaks.fitted(make, _factor(context, config, card), free_bytes, limit)


def _factor(context: TickContext, config: Mapping[str, Any], card: Card) -> Callable[[Plan], float]:
    return measured_peaks.factor_of(known(context), kind_of(card), config)
