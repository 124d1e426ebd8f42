"""How the thread that trains and the one that commands speak to each other."""

from __future__ import annotations

import time
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
        self.progress_utc = time.time()

    def ask(self, how: Halt) -> None:
        """Wish for an end at the next step boundary; the last wish counts."""
        self.halt = how

    def beat(self) -> None:
        self.progress_utc = time.time()

    def check(self) -> None:
        """Progress was made; raises Interrupted when the card is wanted back."""
        self.beat()
        if self.halt is Halt.YIELD:
            raise Interrupted
