"""The promise between the scheduler and whatever runs workers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from workbench.assignment import Assignment
from workbench.machine.cards import Card


class Halt(StrEnum):
    """How a running attempt is asked to end, at its next step boundary."""

    FINISH = "finish"
    """Checkpoint, score, keep the adapter: ends as stopped."""
    YIELD = "yield"
    """Checkpoint and give the card back: ends as yielded."""


class Phase(StrEnum):
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a card's worker last said of itself."""

    card: str
    generation: int
    phase: Phase
    attempt: int | None = None
    """The attempt it runs; None when idle."""
    last_attempt: int | None = None
    """The highest attempt it ever took."""
    pid: int | None = None
    silent_s: float = 0.0
    """Seconds since it last answered."""
    reason: str = ""
    """Why it is gone."""
    data: dict[str, Any] | None = None


class WorkerLike(Protocol):
    """What a fleet starts by dotted name, one for each card. All calls return at once."""

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]: ...
    def halt(self, attempt: int, how: str) -> None: ...
    def report(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Fleet(Protocol):
    """Workers, one for each card. Every call returns at once and is safe to repeat."""

    def start(self, card: Card, assignment: Assignment) -> None:
        """Give `assignment` to the card's worker, starting one if there is none."""

    def halt(self, card: str, attempt: int, how: Halt) -> None:
        """Ask the worker to end this attempt at the next step boundary."""

    def end(self, card: str, why: str) -> None:
        """Kill the card's worker; the next start makes a new generation."""

    def observe(self) -> dict[str, Report]:
        """The newest report of every worker, by card uuid; one that went away says so once."""

    def close(self) -> None:
        """End every worker."""
