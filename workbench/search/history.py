"""What became of a trial, as far as the search needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["going", "scored", "cut", "void"]
"""going: queued or on a card. scored: finished. cut: ended early, and so worse than what finished.
void: it tells nothing of its settings (its card broke, its data was gone)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    number: int
    settings: dict[str, Any]
    fate: Fate
    score: float | None = None
    """By the sweep's objective; of `scored` ones."""
    step: int | None = None
    """Of a `cut` one: its newest evaluation. None: it never came to one."""
    eval_loss: float | None = None
    """There; down is better, whatever the objective."""
