"""A box's cards, disk and clock: what they are, and what a person is told when that changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from workbench.formatting import SKEW_S, size
from workbench.machine.sampler import MachineReading

SLACK = 1.02
"""Factor above the floor of the disk at which a shortage ends; also the head's own."""


class BoxHealth:
    """The disk and clock of one box as its agent showed them last."""

    def __init__(self, box: str) -> None:
        self._box = box
        self.free_bytes: int | None = None
        self.floor_bytes = 0
        """Free bytes below which the box's cards take no trial: `guards.disk_floor` there."""
        self.disk_is_low = False
        self.skew_s = 0.0
        """Seconds by which the box's clock is ahead of the head's."""
        self._clock_is_wrong = False

    @property
    def problem(self) -> str:
        """Return why the box's cards take no new trial; an empty string while they may."""
        if not self.disk_is_low:
            return ""
        left, floor = size(self.free_bytes), size(self.floor_bytes)
        return f"the disk of box {self._box} has {left} left, below {floor} (guards.disk_floor)"

    def see(self, free_bytes: int, floor_bytes: int, skew_s: float) -> list[tuple[str, str]]:
        """Take in what the agent showed; return what changed, as (level, text)."""
        was_low, was_wrong = self.disk_is_low, self._clock_is_wrong
        self.free_bytes, self.floor_bytes, self.skew_s = free_bytes, floor_bytes, skew_s
        self.disk_is_low = free_bytes < floor_bytes * (SLACK if was_low else 1)
        # A clock that is a second off would otherwise be told of again and again.
        self._clock_is_wrong = abs(skew_s) >= SKEW_S * (0.5 if was_wrong else 1)
        notes = []
        if self.disk_is_low and not was_low:
            notes.append(("warning", f"{self.problem}: nothing new starts there"))
        elif was_low and not self.disk_is_low:
            notes.append(("info", f"the disk of box {self._box} has {size(free_bytes)} free again"))
        if self._clock_is_wrong and not was_wrong:
            side = "ahead of" if skew_s > 0 else "behind"
            off = f"the clock of box {self._box} is {abs(skew_s):.1f} s {side} the head's"
            notes.append(("warning", f"{off}; its events are listed by the head's clock"))
        elif was_wrong and not self._clock_is_wrong:
            notes.append(("info", f"the clock of box {self._box} agrees with the head's again"))
        return notes


def newest_reading(seen: dict[str, Any], now_utc: float) -> MachineReading:
    """Return the reading of the cards that an agent showed at `now_utc`, dated by this clock.

    Whether it is too old to be used was judged on the box, by the clock that dated it there.
    """
    reading = MachineReading.from_json(seen["reading"])
    return replace(reading, at_utc=now_utc, stalled=bool(seen["stalled"]))
