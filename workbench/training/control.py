"""How the thread that trains and the one that commands speak to each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from workbench.fleet import Halt


class Emit(Protocol):
    """Takes one event; `events.EventWriter.write` is one."""

    def __call__(self, kind: str, *, durable: bool = False, **data: Any) -> None: ...


class Interrupted(Exception):
    """Raised between two batches of an evaluation when the card is wanted back."""


class Control:
    """One attempt's halt flag, and when it last made progress. Safe between threads."""

    def __init__(self) -> None:
        self.halt: Halt | None = None
        self.stage = ""
        """What it is doing, for the record of a failure."""
        self.step: int | None = None
        self.short_of_memory = False
        self.beat()

    def ask(self, how: Halt) -> None:
        """Wish for an end at the next step boundary; the last wish counts."""
        self.halt = how

    def yield_host_memory(self) -> None:
        """The same wish by the worker itself, whose base is then let go, too."""
        self.short_of_memory = True
        self.halt = self.halt or Halt.YIELD

    @contextmanager
    def doing(self, stage: str) -> Iterator[None]:
        """Inside the block `stage` is what it does; after an error it stays so, for the record."""
        before, self.stage = self.stage, stage
        try:
            yield
        except Interrupted:
            self.stage = before
            raise
        self.stage = before

    def beat(self) -> None:
        self.progress_utc, self._beat_s = time.time(), time.monotonic()

    @property
    def still_s(self) -> float:
        """Seconds since it last made progress, by a clock that does not jump."""
        return time.monotonic() - self._beat_s

    def check(self) -> None:
        """Progress was made; raises Interrupted when the card is wanted back."""
        self.beat()
        if self.halt is Halt.YIELD:
            raise Interrupted
