"""Ctrl-c in a child process of the command line: words, the exit code 130, and nothing lost."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from workbench.fleet import Halt
from workbench.training.control import Control

EXIT_CODE = 130
"""A shell's exit code for a process that ctrl-c ended."""
_NOTHING_TO_KEEP = ("", "preparing", "loading")
"""Stages in which a trial has nothing that a checkpoint would have to keep."""


@contextmanager
def checkpointing(control: Control) -> Iterator[None]:
    """Answer ctrl-c inside the block with a checkpoint, and a second one by ending at once.

    Before the first step KeyboardInterrupt is raised right away, as by a second ctrl-c: a base can
    take minutes to load, and there is nothing to keep. SIGTERM is answered as the first ctrl-c,
    however often it comes: the command sends it in case ctrl-c reached the command alone.
    """

    def interrupted(number: int, frame: FrameType | None) -> None:
        if control.halt is not None and number == signal.SIGTERM:
            return
        if control.halt is not None or control.stage in _NOTHING_TO_KEEP:
            raise KeyboardInterrupt
        control.request_halt(Halt.YIELD)
        text = "ctrl-c: ends at the next step, with a checkpoint; a second ctrl-c ends at once"
        print(text, file=sys.stderr, flush=True)

    before = {one: signal.signal(one, interrupted) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
