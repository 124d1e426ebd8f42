"""Correction factors learned from the peaks that the store's finished attempts measured."""

from __future__ import annotations

from workbench.footprint.measured_peaks import learn_factors
from workbench.footprint.oom_fallback import Key, hardware_key
from workbench.scheduler.tick_context import TickContext
from workbench.store.queries import attempt_history
from workbench.store.rows import card_of


def known_factors(context: TickContext) -> dict[Key, float]:
    """Return the factor of each class of plans that was measured often enough.

    GPUs only: on a CPU card the peak is that of all that the process ever held. The factors are
    kept on the context until another attempt has finished, which costs one small query a tick.
    """
    if not any(row.kind == "cuda" for row in context.cards):
        return {}
    if context.measured is None:
        context.measured = attempt_history.newest_measured(context.store)
    if context.factors is None or context.factors[0] != context.measured:
        gpus = [row for row in context.cards if row.kind == "cuda"]
        hardware = {row.uuid: hardware_key(card_of(row)) for row in gpus}
        found = learn_factors(attempt_history.measured_peaks(context.store), hardware)
        context.factors = (context.measured, found)
    return context.factors[1]
