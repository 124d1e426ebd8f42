"""Made-up cards whose readings follow what they do."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from workbench.machine.history.writer import Readings

GIB = 1 << 30
CARDS = (
    ("GPU-6f1a2b3c-0d4e-4f5a-8b6c-7d8e9fa0b1c2", "NVIDIA GeForce RTX 4090", 24, "8.9", 450),
    ("GPU-a02b9c1d-2e3f-4a5b-9c6d-7e8f90a1b2c3", "NVIDIA GeForce RTX 3090", 24, "8.6", 350),
    ("GPU-c77d4e5f-6a7b-4c8d-8e9f-0a1b2c3d4e5f", "NVIDIA GeForce RTX 3090", 24, "8.6", 350),
    ("GPU-19be8f70-1a2b-4c3d-9e4f-5a6b7c8d9e0f", "NVIDIA GeForce RTX 4060 Ti", 16, "8.9", 165),
)
FOREIGN = CARDS[3][0]
"""Uuid of the card that somebody else's program uses."""


class MadeUpCards:
    """A source of rows for the cards table, as `engine.CardWatch` is of the real ones."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.busy: Collection[str] = ()
        """Uuids of the cards that a trial trains on."""

    def __call__(self) -> list[dict[str, Any]]:
        return [
            self._row(*card) | {"index": number, "bus": f"0000:{number + 1:02}:00.0"}
            for number, card in enumerate(CARDS)
        ]

    def readings(self) -> dict[str, Readings]:
        """Return what a card's history keeps of a reading, by UUID."""
        return {
            row["uuid"]: (
                row["utilisation"],
                row["total_bytes"] - row["free_bytes"],
                row["power_w"],
                row["temperature_c"],
            )
            for row in self()
        }

    def _row(self, uuid: str, name: str, gib: int, capability: str, limit_w: int) -> dict[str, Any]:
        works = uuid in self.busy
        total = gib * GIB
        used = int((0.91 * total if works else 0.4 * GIB) * self._dice.uniform(0.99, 1.01))
        processes: list[dict[str, Any]] = []
        if uuid == FOREIGN:
            used = int(9.1 * GIB)
            processes = [{"pid": 7741, "bytes": used, "name": "python3", "draws": False}]
        load = 0.96 if works or uuid == FOREIGN else 0.0
        return {
            "uuid": uuid,
            "kind": "cuda",
            "name": name,
            "total_bytes": total,
            "capability": capability,
            "free_bytes": total - used,
            "utilisation": round(100 * load * self._dice.uniform(0.96, 1.0)),
            "temperature_c": round(38 + 30 * load + self._dice.uniform(-1, 1), 1),
            "power_w": round(limit_w * (0.07 + 0.8 * load) * self._dice.uniform(0.97, 1.03), 1),
            "power_limit_w": float(limit_w),
            "processes": processes,
            "problem": "",
        }
