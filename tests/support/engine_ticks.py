"""An engine's locks and ticks, with running trials that log a step now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tui import filled
from workbench.home import Home

FIRST_STEP = 430
"""The step at which the running trials of a filled home go on."""


@contextmanager
def ticking_engine(root: Path, *, live: bool = False, period_s: float = 1.0) -> Iterator[None]:
    """Hold the locks of an engine and tick each `period_s`; `live` adds a step to running trials.

    The home is one that `tests.tui.filled.fill` wrote.
    """
    home, done = Home(root), threading.Event()

    def tick() -> None:
        filler = filled.Filler(home, time.time()) if live else None
        step = FIRST_STEP
        while not done.wait(period_s):
            home.tick.touch()
            if filler is not None:
                step += 1
                _log_step(filler, step)
        if filler is not None:
            filler.store.close()

    with filled.engine_running(home):
        thread = threading.Thread(target=tick)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _log_step(filler: filled.Filler, step: int) -> None:
    filler.clock.at = time.time()
    for one in filler.store.live_attempts():
        if one.total_steps:
            curve, steps = (2.4, 0.9, 75.0), range(step, step + 1)
            filler.train(one.trial, one.id, steps, curve, rate=2_390.0, peak=14.9, seed=step)
