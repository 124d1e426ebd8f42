"""Workers as threads of this process: for tests, and for debugging without Ray."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from workbench.attempts.assignment import Assignment
from workbench.fleet import Halt, Phase, Report, WorkerLike
from workbench.machine.cards import Card

WORKER = "workbench.training.worker:Worker"


def load_worker(dotted: str) -> Callable[..., WorkerLike]:
    """Return the class that `dotted` names as `module:Class`."""
    module, _, name = dotted.partition(":")
    return cast(Callable[..., WorkerLike], getattr(importlib.import_module(module), name))


def report_from(card: str, generation: int, data: dict[str, Any], silent_s: float) -> Report:
    """Return a worker's own report as a Report."""
    return Report(
        card=card,
        generation=generation,
        phase=Phase(data["phase"]),
        attempt=data.get("attempt"),
        last_attempt=data.get("last_attempt"),
        pid=data.get("pid"),
        silent_s=silent_s,
        reason=str(data.get("reason") or ""),
        data=data,
    )


class InlineFleet:
    """A fleet without processes: each worker is an object with a thread of its own."""

    def __init__(
        self, home: str, next_generation: Callable[[str], int], worker: str = WORKER
    ) -> None:
        self._home = home
        self._next_generation = next_generation
        self._make = load_worker(worker)
        self._workers: dict[str, tuple[int, WorkerLike]] = {}
        self._gone: dict[str, Report] = {}

    def warm(self, card: Card) -> None:
        if card.uuid not in self._workers:
            generation = self._next_generation(card.uuid)
            worker = self._make(card.to_json(), generation, self._home)
            self._workers[card.uuid] = (generation, worker)

    def start(self, card: Card, assignment: Assignment) -> None:
        self.warm(card)
        self._workers[card.uuid][1].start(assignment.to_json())

    def has_base(self, card: str, base: str) -> bool:
        """Return True: what was prepared on this machine is here."""
        return True

    def has_room(self, card: str, base: str) -> bool:
        """Return True: nothing has to be brought here."""
        return True

    def halt(self, card: str, attempt: int, how: Halt) -> None:
        if card in self._workers:
            self._workers[card][1].halt(attempt, how)

    def end(self, card: str, why: str) -> None:
        found = self._workers.pop(card, None)
        if found is not None:
            found[1].close()
            self._gone[card] = Report(card=card, generation=found[0], phase=Phase.GONE, reason=why)

    def keep_spare(self, card: Card | None) -> None:
        """Do nothing: this process has imported everything already."""

    def observe(self) -> dict[str, Report]:
        here = {
            card: report_from(card, generation, worker.report(), 0.0)
            for card, (generation, worker) in self._workers.items()
        }
        for card, report in here.items():
            if report.phase is Phase.GONE:  # it gave itself up: a broken context, a full disk
                self.end(card, report.reason)
        gone, self._gone = self._gone, {}
        return {**here, **gone}

    def close(self) -> None:
        for card in list(self._workers):
            self.end(card, "the fleet was closed")
        self._gone.clear()
