"""An attempt on a box, as far as its files have been carried, and its share of a courier's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.attempts.assignment import Assignment

File = tuple[str, int, int]
"""(path in the work folder, bytes, modification time in ns), as the agent lists files."""


@dataclass(slots=True)
class Carried:
    """One attempt on the box, as far as its files have been carried."""

    given: Assignment
    all_bytes: int = 0
    """Bytes of its inputs that the box lacked at first."""
    lacking_bytes: int = 0
    """Bytes of them that have not been sent yet."""
    base: str | None = None
    """Label of its base, once it is known."""
    moved_s: float = field(default_factory=time.monotonic)
    """Monotonic time of the last byte that moved."""
    mapped: Assignment | None = None
    """The attempt with the paths that it has on the box; None until its inputs are there."""
    offset: int = 0
    """Bytes of the box's event file that are home."""
    written: int = 0
    """Bytes of the event file at home, which differ where times were corrected."""
    landed: dict[str, list[File]] = field(default_factory=dict)
    """The files that have landed, by folder or file, as the agent listed it then."""
    nothing_new_s: float = float("-inf")
    """Monotonic time at which the last look began that found nothing to fetch."""
    left_s: float | None = None
    """Monotonic time at which its worker was first seen to have left it; None before."""
    is_over: bool = False
    """Its end is home, or it was called off, or its worker has gone: its files go from the box."""
    failure: str = ""
    """The reason why its inputs cannot be brought; empty while they can."""
    has_room: bool = True
    """False where they cannot be brought because the box's disk has no room for them."""

    @property
    def sent_bytes(self) -> int:
        return self.all_bytes - self.lacking_bytes

    @property
    def attempt_path(self) -> str:
        return f"attempts/{self.given.attempt}"

    @property
    def trial_path(self) -> str:
        return f"trials/{self.given.trial}"

    def has(self, name: str, files: list[File]) -> bool:
        """Return True where exactly these files have landed."""
        return self.landed.get(name) == files

    def is_under_way(self, last_attempt: int | None) -> bool:
        """Return True while files travel for which the card's idle worker waits, or that it made.

        `last_attempt` is the newest that the worker has taken. False where the inputs are there and
        the start has not reached it, and where it has left the attempt, all is home, and no end is
        among it.
        """
        if (last_attempt or 0) < self.given.attempt:
            return self.mapped is None
        if self.left_s is None:
            self.left_s = time.monotonic()
        return self.nothing_new_s <= self.left_s


class ShareIsOver(Exception):
    """An attempt's share of a round is over before its inputs are there."""


class Share:
    """The part of a round that one attempt may take; some work is done even when it is short."""

    def __init__(self, for_s: float) -> None:
        self._until_s = time.monotonic() + for_s

    def spend(self) -> None:
        """Raise ShareIsOver once the time is over."""
        if time.monotonic() > self._until_s:
            raise ShareIsOver

    def of(
        self, sha256: Callable[[Path], str], done: Callable[[Path], bool]
    ) -> Callable[[Path], str]:
        """Return `sha256`, which raises ShareIsOver after a file that took too long to read."""

        def digest(path: Path) -> str:
            was_known = done(path)
            found = sha256(path)
            if not was_known:
                self.spend()
            return found

        return digest
