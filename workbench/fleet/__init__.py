"""The interface between the scheduler and what runs workers, one worker for each card.

`Fleet` is the interface; `ray_fleet` runs workers as Ray actors, `inline_fleet` as threads of
this process (tests and `workbench train`). The engine's loop creates a fleet and the scheduler
calls it. `spare_worker` is the process that replaces a worker, `ray_head` the cluster as the keeper
starts it, `trial_fence` keeps a trial to one attempt, `kernel_cache` keeps what Triton compiled.
Only `ray_fleet` imports ray; workers are started by dotted name, so nothing here imports torch or
`workbench.training`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from workbench.attempts.assignment import Assignment
from workbench.machine.cards import Card


class Halt(StrEnum):
    """The way in which a running attempt ends at its next step boundary."""

    FINISH = "finish"
    """Checkpoint, score, keep the adapter; the attempt ends as stopped."""
    YIELD = "yield"
    """Checkpoint and give the card back; the attempt ends as yielded."""


class Phase(StrEnum):
    """The state of a card's worker."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The newest report of a card's worker."""

    card: str
    generation: int
    phase: Phase
    attempt: int | None = None
    """Attempt that the worker runs; None when it is idle."""
    last_attempt: int | None = None
    """Highest attempt that the worker ever accepted."""
    pid: int | None = None
    silent_s: float = 0.0
    """Seconds since the worker last answered."""
    reason: str = ""
    """Reason for which the worker is gone; empty while it is there."""
    data: dict[str, Any] | None = None
    is_blameless: bool = False
    """True of a worker that went away with its whole machine, or while that had no room left on its
    disk: neither card nor trial is charged.
    """


class RayLost(Exception):
    """The cluster itself has ended, so that no report about a worker means anything.

    The loop ends on it and starts again with a new cluster; no card and no trial is charged.
    """


class WorkerLike(Protocol):
    """A worker that a fleet starts by dotted name, one for each card. All calls return at once.

    Its class may have a static method `import_ahead(card)`, which a spare worker calls before it is
    given a card of that kind. It imports what is slow, and returns why the process cannot become a
    card's worker any more; an empty string where it can.
    """

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]: ...
    def halt(self, attempt: int, how: str) -> None: ...
    def report(self) -> dict[str, Any]: ...
    def close(self) -> None: ...


class Fleet(Protocol):
    """Workers, one for each card. Every call returns at once and may be repeated."""

    def warm(self, card: Card) -> None:
        """Create the card's worker where there is none, so that it imports before it is needed."""

    def start(self, card: Card, assignment: Assignment) -> None:
        """Give `assignment` to the card's worker; create the worker where there is none."""

    def has_base(self, card: str, base: str) -> bool:
        """Return whether the weights with that label (`fleet.bases`) are on the card's machine, so
        that a trial there need not wait for them.
        """

    def has_room(self, card: str, base: str) -> bool:
        """Return False where the disk of the card's machine had no room for the base just now."""

    def halt(self, card: str, attempt: int, how: Halt) -> None:
        """Ask the worker to end this attempt at the next step boundary."""

    def end(self, card: str, why: str) -> None:
        """Kill the card's worker; the next start creates a worker of a higher generation."""

    def keep_spare(self, card: Card | None) -> None:
        """Keep one spare worker ready for cards of the kind of `card`; None: keep none."""

    def observe(self) -> dict[str, Report]:
        """Return the newest report of every worker, by card uuid.

        A worker that ended is reported once, with phase GONE. Raises RayLost.
        """

    def close(self) -> None:
        """End every worker."""
