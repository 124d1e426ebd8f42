"""Energy of a card between two samples: by its own counter, else by its power."""

from __future__ import annotations

from workbench.store.rows import CardRow

MOST_W = 2_000.0
"""Watts that no card exceeds: a counter that says so has jumped or was reset."""
LONGEST_S = 30.0
"""Longest seconds between two readings of a card's power from which energy is computed."""


def drawn_wh(before: CardRow | None, now: CardRow) -> float | None:
    """Return the watt-hours drawn between two samples; None where they are unknown."""
    if before is None or now.problem:
        return None
    span_s = now.seen_utc - before.seen_utc
    if span_s <= 0:  # the clock was set back
        return None
    if before.energy_j is not None and now.energy_j is not None:
        joules = now.energy_j - before.energy_j
        if 0 <= joules <= MOST_W * span_s:
            return joules / 3600
    if before.power_w is not None and now.power_w is not None and span_s <= LONGEST_S:
        return (before.power_w + now.power_w) / 2 * span_s / 3600
    return None
