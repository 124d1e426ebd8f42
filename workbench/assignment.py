"""What a worker is given: everything one attempt needs, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One attempt of a trial on a card. Written to `<folder>/assignment.json` before it is sent."""

    attempt: int
    """Ever growing; a worker refuses one lower than the last it saw."""
    trial: int
    experiment: int
    kind: str
    """trial.Kind: tune or base."""
    recipe: dict[str, Any]
    """The experiment's recipe with the trial's settings applied; see recipe.Recipe."""
    card: dict[str, Any]
    """cards.Card"""
    plan: dict[str, Any]
    """footprint.Plan"""
    folder: str
    """attempts/<id>: events.jsonl goes here."""
    trial_folder: str
    """trials/<id>: `checkpoints/step-000025/…` and `adapter/` go here."""
    experiment_folder: str
    """experiments/<id>: what was prepared once for all its trials."""
    finish: bool = False
    """Train no further: score the newest checkpoint, keep it as the adapter, end as stopped."""

    warm: dict[str, Any] | None = None
    """Start from this adapter instead of a fresh one: {trial, folder, sha256}."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**data)
