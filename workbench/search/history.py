"""The history of a sweep's trials, reduced to what the search uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["running", "scored", "ended_early", "uninformative"]
"""running: queued or on a card. scored: finished with a score. ended_early: counted as worse than
every finished trial. uninformative: ended for a reason that says nothing about its settings, such
as a broken card or missing data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTrial:
    """An earlier trial of the sweep: its settings and how it ended."""

    number: int
    """Position in the sweep, from 1."""
    settings: dict[str, Any]
    """Swept settings by dotted key."""
    fate: Fate
    score: float | None = None
    """Value of the sweep's objective; set for `scored` trials."""
    step: int | None = None
    """Optimizer step of the newest evaluation of an `ended_early` trial; None if it had none."""
    eval_loss: float | None = None
    """Held-out loss at `step`, in nats; lower is better, whatever the objective is."""
