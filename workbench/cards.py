"""What cards there are and what each can do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One accelerator, or a stand-in made of CPU cores on a machine that has none."""

    uuid: str
    """`GPU-…` as NVML gives it, or `cpu-0`, `cpu-1`, …"""
    kind: Literal["cuda", "cpu"]
    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    """CUDA compute capability, e.g. (8, 6) for a 3090; None on a CPU card."""
    cap_bytes: int | None = None
    """The person's own limit (WORKBENCH_CARDS); the planner and the worker keep below it."""

    @property
    def usable_bytes(self) -> int:
        return min(self.total_bytes, self.cap_bytes or self.total_bytes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        capability = data.get("capability")
        return cls(**{**data, "capability": tuple(capability) if capability else None})
