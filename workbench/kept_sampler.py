"""The card sampler under a keeper: started again when it ends, or hangs in the driver."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from workbench.home import Home
from workbench.machine.processes import MARK
from workbench.machine.python_children import python_command

SAMPLE_LIMIT_S = 15.0
"""Seconds without a new sample after which the card sampler is killed and restarted."""
SAMPLER_PAUSE_S = 2.0
"""Least seconds between two starts of a sampler, however the first one ended."""

log = logging.getLogger("workbench.keeper")

Spawn = Callable[[str, list[str], dict[str, str]], subprocess.Popen[bytes]]
"""Starts a child, given its name, command line and environment. Raises OSError."""


class StillFile:
    """A file that some process writes again and again, watched for how long it stays unchanged.

    Seconds are those of the monotonic clock, because the wall clock may jump.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, float] | None = None
        """The newest modification time, in nanoseconds, and when it was first seen."""

    def still_s(self, since_s: float) -> float:
        """Return the seconds since the file last changed; since `since_s` where it is missing."""
        now = time.monotonic()
        try:
            stamp = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return now - since_s
        if self._seen is None or self._seen[0] != stamp:
            self._seen = (stamp, now)
        return now - self._seen[1]


class KeptSampler:
    """The sampler of one keeper's cards."""

    def __init__(self, home: Home, spawn: Spawn) -> None:
        self._home = home
        self._spawn = spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = -SAMPLER_PAUSE_S
        self._sample = StillFile(home.sample)
        self._stalled = False

    def keep(self) -> None:
        """Restart a sampler that ended, and kill one that hangs in the driver. Never waits.

        A killed one is replaced only once it has gone: one that cannot be killed would otherwise be
        joined by others.
        """
        if self._process is not None and self._process.poll() is None:
            still_s = self._sample.still_s(self._started_s)
            if still_s >= SAMPLE_LIMIT_S and not self._stalled:
                log.error("the card sampler has stalled")
                self._process.kill()
                self._stalled = True
        elif time.monotonic() - self._started_s >= SAMPLER_PAUSE_S:
            self._start()

    def _start(self) -> None:
        self._started_s, self._stalled = time.monotonic(), False
        self._sample = StillFile(self._home.sample)
        options = [f"--history={self._home.card_history}", f"--parent={os.getpid()}"]
        try:
            self._process = self._spawn(
                "sampler",
                python_command("workbench.machine.sampler", str(self._home.sample), *options),
                {**os.environ, MARK: f"sampler-{os.getpid()}"},
            )
        except OSError as refused:
            log.error("the card sampler could not be started: %s", refused)

    def end(self) -> None:
        """Kill the sampler, if one was started."""
        if self._process is not None:
            self._process.kill()
