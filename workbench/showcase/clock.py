"""The clock of the showcase: hours of history are played in seconds, then time is real."""

from __future__ import annotations

import time


class ShowcaseClock:
    """A wall clock that stands `behind_s` seconds before now."""

    behind_s = 0.0

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return time.time() - self.behind_s


CLOCK = ShowcaseClock()
"""The one clock of the process: its store, its workers and its cards read it."""
