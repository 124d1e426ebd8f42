"""The messages between the training thread and the thread that commands it: halt and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from workbench.fleet import Halt
from workbench.fleet.trial_fence import TrialFence

FENCE_PAUSE_S = 0.1
"""Seconds between two tries to take the trial's lock."""


class Emit(Protocol):
    """A function that takes one event; `events.EventWriter.write` is one."""

    def __call__(self, kind: str, *, durable: bool = False, **data: Any) -> None: ...


class Interrupted(Exception):
    """Scoring or waiting ends at once because the card is to be given back."""


class Control:
    """One attempt's halt flag, and the time of its last progress. Safe between threads."""

    def __init__(self, fence: TrialFence | None = None) -> None:
        self.halt: Halt | None = None
        self.fence = fence
        """The fence of the trial; None where no scheduler placed the attempt."""
        self.stage = ""
        """The phase the attempt is in; a failure is recorded with it."""
        self.step: int | None = None
        """Optimizer steps done; None before the first."""
        self.rows_done: Callable[[int, int], None] = lambda done, rows: None
        """Is told how many of how many held-out rows are scored, before each batch and at the
        end."""
        self.short_of_memory = False
        """True once the worker itself asked for the end because the machine's memory is low."""
        self.beat()

    def request_halt(self, how: Halt) -> None:
        """Ask for an end at the next step boundary; a later request replaces an earlier one."""
        self.halt = how

    def yield_host_memory(self) -> None:
        """Ask for an end because host memory is low; the worker then also releases its base.

        A request that a person made before keeps its kind.
        """
        self.short_of_memory = True
        self.halt = self.halt or Halt.YIELD

    @contextmanager
    def doing(self, stage: str) -> Iterator[None]:
        """Set `stage` inside the block and restore it afterwards.

        After an error the stage stays, so that the failure is recorded with it.
        """
        before, self.stage = self.stage, stage
        try:
            yield
        except Interrupted:
            self.stage = before
            raise
        self.stage = before

    def check_fence(self) -> None:
        """Raise Superseded where this attempt was called off or replaced."""
        if self.fence is not None:
            self.fence.check()

    def wait_for_trial(self) -> None:
        """Wait until the attempt before has ended, so that no two train the same trial.

        Raises Superseded, and Interrupted when the card is to be given back meanwhile.
        """
        while self.fence is not None and not self.fence.take():
            if self.halt is Halt.YIELD:
                raise Interrupted
            time.sleep(FENCE_PAUSE_S)

    def beat(self) -> None:
        """Record progress now, so that the stall guard does not act."""
        self.progress_utc, self._beat_s = time.time(), time.monotonic()

    @property
    def still_s(self) -> float:
        """Seconds since the last progress, by the monotonic clock."""
        return time.monotonic() - self._beat_s

    def check(self) -> None:
        """Record progress; raise Interrupted when the card is to be given back."""
        self.beat()
        if self.halt is Halt.YIELD:
            raise Interrupted
