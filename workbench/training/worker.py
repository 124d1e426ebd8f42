"""The worker of one card: it takes attempts and runs them one after another on its own thread.

Control calls return at once and never touch CUDA; torch is imported on the training thread only,
because the import takes seconds and CUDA's context belongs to the thread that trains.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import fault_points
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import EventWriter
from workbench.errors import EngineError
from workbench.fleet import Halt, Phase
from workbench.fleet.trial_fence import Superseded, TrialFence
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.machine.locks import Lock, lock_holder
from workbench.machine.resources import resident_bytes
from workbench.training import failure
from workbench.training.control import Control
from workbench.training.libraries import import_ahead, import_libraries
from workbench.training.memory.card_memory import Meter, check_card

if TYPE_CHECKING:
    from workbench.training.model.base import ResidentBase

log = logging.getLogger("workbench.worker")

IDLE_S = 600.0
"""Seconds without an attempt after which a worker releases its base."""
KEPT_S = 30.0
"""Seconds without an attempt after which a worker releases the last trial's captured graphs. In a
sweep the next trial follows in a fraction of one, in the next experiment after 10 to 20 of
preparation; a drained card, or one that another program took, gets none."""

_one_at_a_time = threading.Lock()
"""A lock for workers that share a process, as CPU cards do in tests: accelerate's state and torch's
random numbers belong to the process, so these workers train one after another."""


def lock_path(card: Card, home: Path) -> Path:
    """Return the path of the card's lock and make its folder.

    A GPU's lock belongs to the machine, so that the workers of two homes never share a GPU.
    """
    path = Home(home).card_lock(card.uuid, card.kind)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class Worker:
    """A worker on one card; implements fleet.WorkerLike.

    It holds its card's lock until it ends; the constructor raises EngineError when another process
    holds it. `idle_s` is the time after which an idle worker releases its base, `kept_s` that
    after which it releases the last trial's captured graphs.
    """

    def __init__(
        self,
        card: dict[str, Any],
        generation: int,
        home: str,
        *,
        idle_s: float = IDLE_S,
        kept_s: float = KEPT_S,
    ) -> None:
        self.card = Card.from_json(card)
        self.generation = generation
        self._idle_s, self._kept_s = idle_s, kept_s
        self._lock = Lock(lock_path(self.card, Path(home)))
        if not self._lock.take():
            pid = lock_holder(self._lock.path)
            raise EngineError(
                f"card {self.card.uuid} is used by process {pid}",
                hint=f"stop the other workbench, or end process {pid}",
            )
        self._changed = threading.Condition()
        self._waiting: Assignment | None = None
        self._control: Control | None = None
        self._attempt: int | None = None
        self._last_attempt: int | None = None
        self._progress_utc = time.time()
        self._base: str | None = None
        self._keeps_step = False
        self._broken = ""
        self._closing = False
        self._thread = threading.Thread(target=self._live, name="training", daemon=True)
        self._thread.start()

    @staticmethod
    def import_ahead(card: dict[str, Any]) -> str:
        """Import most of what a worker needs, without a card; see `fleet.WorkerLike`.

        Takes 3 to 15 s and 0.3 GiB of the machine's memory.
        """
        return import_ahead()

    # -- control: any thread, returns at once

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """Take an attempt; return {"ok": True}, or {"ok": False, "reason": text}.

        A repeated call with the same attempt is answered "ok" and starts nothing twice.
        """
        given = Assignment.from_json(assignment)
        with self._changed:
            refusal = self._refusal(given.attempt)
            if refusal:
                return {"ok": False, "reason": refusal}
            if given.attempt != self._last_attempt:
                fence = TrialFence(Path(given.trial_folder), given.attempt)
                self._waiting, self._control = given, Control(fence)
                self._attempt = self._last_attempt = given.attempt
                self._changed.notify_all()
        return {"ok": True}

    def _refusal(self, attempt: int) -> str:
        last = self._last_attempt
        if self._broken:
            return self._broken
        if self._closing:
            return "the worker is closing"
        if last is not None and attempt < last:
            return f"attempt {attempt} is older than attempt {last}, seen before"
        if self._attempt is not None and attempt != self._attempt:
            return f"busy with attempt {self._attempt}"
        return ""

    def halt(self, attempt: int, how: str) -> None:
        """Ask the attempt to end at its next step boundary; ignored when another one runs."""
        with self._changed:
            if self._attempt == attempt and self._control is not None:
                self._control.request_halt(Halt(how))

    def report(self) -> dict[str, Any]:
        """Return the worker's phase, attempt, progress and memory, as plain JSON values.

        The phase is "gone" once the card's CUDA context broke: the worker can run nothing more.
        """
        fault_points.at("worker.report")
        with self._changed:
            phase = Phase.BUSY if self._attempt is not None else Phase.IDLE
            if self._broken:
                phase = Phase.GONE
            control = self._control
            return {
                "phase": phase.value,
                "attempt": self._attempt,
                "last_attempt": self._last_attempt,
                "pid": os.getpid(),
                "generation": self.generation,
                "progress_utc": control.progress_utc if control else self._progress_utc,
                "still_s": control.still_s if control else 0.0,
                "rss_bytes": resident_bytes(),
                "base": self._base,
                "keeps_step": self._keeps_step,
                "reason": self._broken,
            }

    def close(self) -> None:
        """Ask the running attempt to end at its next step boundary, then release card and lock."""
        with self._changed:
            self._closing = True
            if self._control is not None:
                self._control.request_halt(Halt.YIELD)
            self._changed.notify_all()

    def wait(
        self, until: Callable[[dict[str, Any]], bool], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Block until a report satisfies `until` or `timeout_s` is over; return the last one."""
        with self._changed:
            self._changed.wait_for(lambda: until(self.report()), timeout_s)
            return self.report()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait after `close` for the training thread's end; return False when it still runs."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the training thread

    def _live(self) -> None:
        try:
            meter, resident = self._warm()
            while (given := self._next(resident)) is not None:
                self._run(given, resident, meter)
            resident.release()
        except Exception as broken:
            self._break(f"the worker cannot work: {type(broken).__name__}: {broken}")
        finally:
            self._lock.release()
            with self._changed:
                self._changed.notify_all()

    def _warm(self) -> tuple[Meter, ResidentBase]:
        """Import the libraries and make the CUDA context before the first attempt arrives."""
        import_libraries(threads=1 if self.card.kind == "cpu" else None)
        from workbench.training import trial_run  # noqa: F401
        from workbench.training.model.base import ResidentBase

        meter = Meter(self.card)
        check_card(self.card)
        return meter, ResidentBase()

    def _next(self, resident: ResidentBase) -> Assignment | None:
        """Wait for the next attempt and return it, or None when the worker closes.

        Releases the last trial's step after KEPT_S without an attempt, the base after `idle_s`.
        """
        with self._changed:
            due = lambda: self._waiting is not None or self._closing  # noqa: E731
            if resident.keeper.holds and not self._changed.wait_for(due, self._kept_s):
                resident.keeper.release()
                self._keeps_step = False
                self._changed.notify_all()
            if resident.spec is not None and not self._changed.wait_for(due, self._idle_s):
                resident.release()
                self._base = None
                self._changed.notify_all()
            self._changed.wait_for(due)
            given, self._waiting = self._waiting, None
            return given

    def _run(self, given: Assignment, resident: ResidentBase, meter: Meter) -> None:
        from workbench.training.trial_run import run_attempt

        control = self._control
        assert control is not None
        assert control.fence is not None
        try:
            control.fence.check()  # before the writer, which creates the file
            writer = EventWriter(Path(given.folder) / "events.jsonl")

            def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
                control.check_fence()
                if not writer.is_read():  # else it would train on for days, unseen by the loop
                    raise Superseded(f"the event file of attempt {given.attempt} was removed")
                writer.write(kind, durable=durable, **data)

            try:
                with _one_at_a_time:
                    run_attempt(
                        given,
                        resident=resident,
                        meter=meter,
                        emit=emit,
                        control=control,
                        generation=self.generation,
                    )
            finally:
                writer.close()
        except Superseded as replaced:
            log.info("%s", replaced)
        except failure.CardLost as lost:
            self._break(lost.what)
        except Exception as broken:  # the end event itself could not be written
            self._break(f"the attempt's events cannot be written: {broken}")
        finally:
            control.fence.release()
        with self._changed:
            self._base = resident.spec.path if resident.spec else None
            self._keeps_step = resident.keeper.holds
            self._attempt, self._control = None, None
            self._progress_utc = time.time()
            self._changed.notify_all()

    def _break(self, why: str) -> None:
        """Mark this worker as unusable; the fleet then starts the next generation."""
        with self._changed:
            self._broken = why
            self._changed.notify_all()
