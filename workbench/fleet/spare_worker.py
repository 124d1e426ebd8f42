"""The spare worker: a process that has imported its libraries and can become any card's worker.

A worker that ends is then replaced without the start of a process and its imports. There is one
spare for the whole machine. It knows no card until it is taken, so it makes no CUDA context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from workbench.machine.cards import Card
from workbench.machine.processes import Identity, identify_process, is_alive
from workbench.text import safe_line

log = logging.getLogger("workbench.fleet")

PAUSE_S = 20.0
"""Seconds after the start of any worker before a spare starts: its imports take a core for as long
as those of a worker that trains soon."""
RETRY_S, MOST_RETRY_S = 30.0, 3600.0
"""Seconds before a spare that ended by itself is replaced: doubled by each further one, up to the
second number, until one is taken."""


class SpareWorker:
    """The one spare worker of a Ray cluster, which is started, watched, taken and ended here.

    Every call returns at once. `create` starts an actor for a kind of cards; `pause_s` replaces
    PAUSE_S, and the clock is monotonic.
    """

    def __init__(
        self,
        create: Callable[[Card], Any],
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._create, self._pause_s, self._clock = create, pause_s, clock
        self._actor: Any = None
        self._kind = ""
        self._imports: Any = None
        """Ray reference of the answer of `import_ahead`; None once it has arrived."""
        self._process: Identity | None = None
        """The process of a spare that is ready; None before."""
        self._not_before_s = 0.0
        self._failures = 0
        self._unfit = ""
        """The kind of cards for which spares cannot work on this machine."""

    @property
    def pid(self) -> int | None:
        """The process of a spare that stands ready; None where there is none."""
        return self._process.pid if self._process is not None else None

    def postpone(self) -> None:
        """Start no spare for PAUSE_S: a worker has just started."""
        self._not_before_s = max(self._not_before_s, self._clock() + self._pause_s)

    def keep(self, ray: Any, card: Card) -> None:
        """Start a spare for the kind of `card` if there is none; notice one that ended."""
        if self._actor is not None and self._kind != card.kind:
            self.end(ray)
        if self._actor is None:
            if self._clock() >= self._not_before_s and self._unfit != card.kind:
                self._kind, self._actor = card.kind, self._create(card)
                self._imports = self._actor.import_ahead.remote(card.to_json())
        elif self._imports is not None:
            self._look_at_imports(ray)
        elif self._process is None or not is_alive(self._process):
            self._failed(ray, "its process ended")

    def _look_at_imports(self, ray: Any) -> None:
        if not ray.wait([self._imports], timeout=0)[0]:
            return
        answer, self._imports = self._imports, None
        try:
            found = ray.get(answer)
        except Exception as died:
            self._failed(ray, safe_line(died))
            return
        if found["unfit"]:
            log.warning("no spare worker is kept: %s", safe_line(found["unfit"]))
            self._unfit = self._kind
            self.end(ray)
            return
        self._process = identify_process(found["pid"])
        log.info("a spare worker stands ready: process %d", found["pid"])

    def _failed(self, ray: Any, why: str) -> None:
        pause_s = min(MOST_RETRY_S, RETRY_S * 2**self._failures)
        log.warning("the spare worker is gone: %s; another one in %.0f s", why, pause_s)
        self._failures += 1
        self._not_before_s = self._clock() + pause_s
        self.end(ray)

    def take(self, card: Card) -> Any:
        """Return the spare's actor for `card` and forget it; None where none is ready."""
        if self._kind != card.kind or self._process is None or not is_alive(self._process):
            return None
        taken, self._actor, self._process, self._failures = self._actor, None, None, 0
        return taken

    def end(self, ray: Any) -> None:
        """End the spare where there is one."""
        if self._actor is not None:
            ray.kill(self._actor, no_restart=True)
        self._actor = self._imports = self._process = None
