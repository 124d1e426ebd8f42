"""How a trial will be run on a given card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a trial will be run on a given card."""

    precision: str
    """bf16, fp16 or fp32."""
    attention: str
    """What transformers is told: flash_attention_2, sdpa, eager."""
    attention_why: str
    optimizer: str
    """One of the recipe's optimizers, never `auto`."""
    micro_batch: int
    """Rows in one forward; micro_batch × micro_steps is the recipe's effective batch."""
    micro_steps: int
    recompute: bool
    """Gradient checkpointing on every layer."""
    predicted_bytes: int
    """Peak bytes on the card, CUDA context included."""
    buckets: dict[str, int] = field(default_factory=dict)
    """predicted_bytes, by what takes them."""
    eval_batch: int = 1
    """Rows in one evaluation or generation step: the recipe's, or as many as fit."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(**data)
