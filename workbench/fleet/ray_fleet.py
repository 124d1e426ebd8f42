"""Workers as detached Ray actors, one for each card, pinned by UUID. The only importer of ray."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench.attempts.assignment import Assignment
from workbench.errors import WorkbenchError
from workbench.fleet import Halt, Phase, RayLost, Report, WorkerLike
from workbench.fleet.inline_fleet import WORKER, load_worker, report_from
from workbench.fleet.spare_worker import PAUSE_S, SpareWorker
from workbench.machine.cards import Card
from workbench.text import safe_line

log = logging.getLogger("workbench.fleet")

NAMESPACE = "workbench"
PING_EVERY_S = 0.5
"""Seconds between two requests for a worker's report."""
DEATH_GRACE_S = 1.0
"""Seconds between a worker's end and its report: where Ray itself ended, the keeper ends this loop
meanwhile, and neither card nor trial is charged."""
START_LIMIT_S = 120.0
"""Seconds after which a worker that never answered is ended."""

# A driver that lost its head ends in seconds instead of a minute; all read when ray is imported.
_DRIVER_ENV = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else 127.0.0.1 becomes the host's address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "1",
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_gcs_server_request_timeout_seconds": "3",
    "RAY_gcs_server_port_wait_time_s": "1",
    "RAY_py_gcs_connect_timeout_s": "2",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
}

CONNECT_LIMIT_S = 30.0
"""Seconds after which a head that accepts a connection and does not answer counts as lost."""
CLOSE_LIMIT_S = 10.0
"""Seconds for which close() waits for a connection under way."""
SPARE_ENV = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""What a spare has until it is given its card: torch then counts cards without initialising CUDA,
which would fix the card for good."""


class WorkerActor:
    """The body of the Ray actor: holds one worker, so that the driver never imports what it runs.

    Without a card it is a spare: it imports ahead, and `adopt` makes it the worker of a card. An
    error of the worker crosses to the driver as text: Ray pickles exceptions, and one with
    keyword-only arguments, or of a module that the driver lacks, would lose its reason there.
    """

    def __init__(
        self, dotted: str, card: dict[str, Any] | None, generation: int, home: str
    ) -> None:
        self._dotted, self._home = dotted, home
        self._worker: WorkerLike | None = None
        self._refusal = "it has no card yet"
        if card is not None:
            self._make(card, generation)
            self._known()

    def import_ahead(self, card: dict[str, Any]) -> dict[str, Any]:
        """Import what a worker of that kind of card needs; return `pid`, and `unfit`, the reason
        why this process cannot become a worker: empty where it can.
        """
        ahead = getattr(load_worker(self._dotted), "import_ahead", None)
        return {"pid": os.getpid(), "unfit": ahead(card) if ahead is not None else ""}

    def adopt(self, card: dict[str, Any], generation: int) -> None:
        """Become the worker of `card`; `report` raises where that was refused."""
        for name in SPARE_ENV:
            os.environ.pop(name, None)
        os.environ.update(worker_env(Card.from_json(card)))
        self._make(card, generation)

    def _make(self, card: dict[str, Any], generation: int) -> None:
        try:
            self._worker = load_worker(self._dotted)(card, generation, self._home)
        except Exception as broken:
            self._refusal = _as_text(broken)

    def _known(self) -> WorkerLike:
        if self._worker is None:
            raise RuntimeError(self._refusal)
        return self._worker

    def start(self, assignment: dict[str, Any]) -> dict[str, Any]:
        return self._known().start(assignment)

    def halt(self, attempt: int, how: str) -> None:
        self._known().halt(attempt, how)

    def report(self) -> dict[str, Any]:
        return self._known().report()


@dataclass(slots=True)
class _Actor:
    """The driver's record of one actor."""

    handle: Any
    generation: int
    ping: Any
    """Ray reference of the report that was requested and has not arrived; None between two."""
    asked_s: float
    """Monotonic time of the last request for a report."""
    answered_s: float
    """Monotonic time of the last report, at first of the actor's creation."""
    report: Report
    death: Exception | None = None
    """The error with which the actor ended; reported after DEATH_GRACE_S."""
    died_s: float = 0.0
    """Monotonic time of `death`."""


class RayFleet:
    """A fleet over one Ray head. It connects when the head's port answers."""

    def __init__(
        self,
        home: str,
        address: str,
        next_generation: Callable[[str], int],
        worker: str = WORKER,
        spare_pause_s: float = PAUSE_S,
    ) -> None:
        self._home = home
        self._address = address
        self._next_generation = next_generation
        self._worker = worker
        self._actors: dict[str, _Actor] = {}
        self._gone: dict[str, Report] = {}
        self._ray: Any = None
        self._connecting: threading.Thread | None = None
        self._connecting_since_s = 0.0
        self._refused: Exception | None = None
        """The error for which no other try to connect makes sense."""
        self._closed = False
        self._spare = SpareWorker(self._create_spare, spare_pause_s)
        self._spares = itertools.count(1)

    def connect(self) -> bool:
        """Return True once this process is the head's driver; False while the head starts.

        Waits 0.2 s at most for the port. Connecting takes seconds while the head starts, and the
        loop prepares experiments meanwhile: a thread does it. Raises RayLost where one try takes
        CONNECT_LIMIT_S or fails for good; a head that ends is noticed by the keeper.
        """
        if self._connecting is not None and self._connecting.is_alive():
            if time.monotonic() - self._connecting_since_s > CONNECT_LIMIT_S:
                raise RayLost(f"Ray did not answer within {CONNECT_LIMIT_S:.0f} s")
            return False
        # Read only now: no thread can change them any more.
        if self._refused is not None:
            raise RayLost(f"Ray refused the connection: {safe_line(self._refused)}")
        if self._ray is not None:
            return True
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=0.2).close()
        except OSError:
            return False
        self._set_driver_env()
        self._connecting = threading.Thread(target=self._connect, name="connect", daemon=True)
        self._connecting_since_s = time.monotonic()
        self._connecting.start()
        return False

    def _connect(self) -> None:
        try:
            self._init_ray()
        except Exception as refused:
            log.exception("Ray cannot be reached")
            self._refused = refused

    def _init_ray(self) -> None:
        """Become the head's driver; leave it to the next try where the head is not ready."""
        import ray

        # Ray warns that it cannot end the process in its own way on SIGTERM, which only the main
        # thread can ask for. The signal ends the loop at once, as it does before Ray is there.
        about = logging.getLogger("ray._private.worker")
        before = about.level
        about.setLevel(logging.ERROR)
        try:
            ray.init(
                address=self._address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
            )
        except (ConnectionError, RuntimeError) as early:  # the port answers before the rest does
            log.info("Ray is not ready: %s", safe_line(early))
            ray.shutdown()
        else:
            if self._closed:
                ray.shutdown()
            else:
                self._ray = ray
        finally:
            about.setLevel(before)

    def _set_driver_env(self) -> None:
        os.environ.update(_DRIVER_ENV)

    def _where(self) -> dict[str, Any]:
        """Return Ray's options of an actor that say on which machine it runs: there is one."""
        return {}

    def _is_passing(self, error: Exception) -> bool:
        """Return True for an error that says nothing about the actor: a network that is cut."""
        return False

    def warm(self, card: Card) -> None:
        if self.connect() and card.uuid not in self._actors:
            self._actors[card.uuid] = self._create_actor(card)

    def start(self, card: Card, assignment: Assignment) -> None:
        if not self.connect():
            return
        self.warm(card)
        self._actors[card.uuid].handle.start.remote(assignment.to_json())

    def _create_actor(self, card: Card) -> _Actor:
        """Create the card's actor, or give it the spare, and request its first report; waits for
        neither.
        """
        generation = self._next_generation(card.uuid)
        handle = self._spare.take(card)
        if handle is not None:
            handle.adopt.remote(card.to_json(), generation)
        else:
            name = f"card-{card.uuid}-{generation}"
            handle = self._new_process(name, worker_env(card), card.to_json(), generation)
        self._spare.postpone()
        now = time.monotonic()
        starting = Report(card=card.uuid, generation=generation, phase=Phase.STARTING)
        return _Actor(handle, generation, handle.report.remote(), now, now, starting)

    def _create_spare(self, card: Card) -> Any:
        env = {**worker_env(card), **(SPARE_ENV if card.kind == "cuda" else {})}
        return self._new_process(f"spare-{next(self._spares)}", env, None, 0)

    def _new_process(
        self, name: str, env: dict[str, str], card: dict[str, Any] | None, generation: int
    ) -> Any:
        return (
            self._ray.remote(WorkerActor)
            .options(
                name=name,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,  # any other number is held for the actor's life
                num_gpus=0,  # 1 hands out the lowest free index, whichever card was meant
                max_restarts=0,  # -1 makes it the memory monitor's preferred victim
                max_task_retries=0,
                runtime_env={"env_vars": env},
                **self._where(),
            )
            .remote(self._worker, card, generation, self._home)
        )

    @property
    def spare_pid(self) -> int | None:
        """The process of the spare worker that stands ready; None where there is none."""
        return self._spare.pid

    def keep_spare(self, card: Card | None) -> None:
        if not self.connect():
            return
        if card is None:
            self._spare.end(self._ray)
        else:
            self._spare.keep(self._ray, card)

    def has_base(self, card: str, base: str) -> bool:
        """Return True: what was prepared on this machine is here."""
        return True

    def has_room(self, card: str, base: str) -> bool:
        """Return True: nothing has to be brought here."""
        return True

    def halt(self, card: str, attempt: int, how: Halt) -> None:
        if card in self._actors:
            self._actors[card].handle.halt.remote(attempt, str(how))

    def end(self, card: str, why: str) -> None:
        actor = self._actors.pop(card, None)
        if actor is not None:
            self._ray.kill(actor.handle, no_restart=True)
            self._gone[card] = self._gone_report(card, actor, why)

    def observe(self) -> dict[str, Report]:
        for card in list(self._actors):
            self._poll_actor(card, self._actors[card])
        gone, self._gone = self._gone, {}
        return {**gone, **{card: actor.report for card, actor in self._actors.items()}}

    def _poll_actor(self, card: str, actor: _Actor) -> None:
        """Take the report that has arrived and request the next one; never waits."""
        now = time.monotonic()
        if actor.death is not None:
            self._report_death(card, actor, now)
            return
        if actor.ping is None:
            if now - actor.asked_s >= PING_EVERY_S:
                actor.ping, actor.asked_s = actor.handle.report.remote(), now
            return
        if not self._ray.wait([actor.ping], timeout=0)[0]:
            actor.report = _silent(actor.report, now - actor.answered_s)
            if actor.report.phase is Phase.STARTING and now - actor.answered_s > START_LIMIT_S:
                self._check_node()
                self.end(card, f"its worker did not start within {START_LIMIT_S:.0f} s")
            return
        ping, actor.ping = actor.ping, None
        try:
            data = self._ray.get(ping)
        except Exception as died:  # ActorDiedError, or what the worker's own start raised
            if self._is_passing(died):
                actor.report = _silent(actor.report, now - actor.answered_s)
                return
            actor.death, actor.died_s = died, now
            return
        actor.answered_s = now
        actor.report = report_from(card, actor.generation, data, 0.0)
        if actor.report.phase is Phase.GONE:  # it gave itself up: a broken context, a full disk
            self.end(card, actor.report.reason)

    def _report_death(self, card: str, actor: _Actor, now: float) -> None:
        assert actor.death is not None
        if now - actor.died_s < DEATH_GRACE_S:
            return
        self._check_node()
        del self._actors[card]
        self._ray.kill(actor.handle, no_restart=True)  # a spare that was refused its card lives on
        self._gone[card] = self._gone_report(card, actor, _death_reason(actor.death))

    def _check_node(self) -> None:
        """Raise RayLost where Ray's control service does not name a living node (1 ms)."""
        try:
            alive = any(node["Alive"] for node in self._ray.nodes())
        except Exception as unreachable:
            raise RayLost(f"Ray does not answer: {safe_line(unreachable)}") from unreachable
        if not alive:
            raise RayLost("Ray has lost its node, and all workers with it")

    @staticmethod
    def _gone_report(card: str, actor: _Actor, why: str) -> Report:
        """Return the last report of an actor that has ended."""
        return Report(
            card=card,
            generation=actor.generation,
            phase=Phase.GONE,
            pid=actor.report.pid,
            last_attempt=actor.report.last_attempt,
            reason=why,
        )

    def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.join(CLOSE_LIMIT_S)
        if self._ray is None:
            return
        for card in list(self._actors):
            self.end(card, "the engine was stopped")
        self._spare.end(self._ray)
        self._gone.clear()
        self._ray.shutdown()
        self._ray = None


def worker_env(card: Card) -> dict[str, str]:
    """Return the environment of a card's worker: its card alone, one thread on a CPU card."""
    env = {
        "CUDA_VISIBLE_DEVICES": card.uuid if card.kind == "cuda" else "",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    if card.kind == "cpu":
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return env


def _as_text(error: Exception) -> str:
    """Return an error's type and words in one line; those of a WorkbenchError are for people."""
    if isinstance(error, WorkbenchError):
        return f"{error.what}; {error.hint}" if error.hint else error.what
    return f"{type(error).__name__}: {safe_line(error, 1_000)}"


def _silent(report: Report, silent_s: float) -> Report:
    return Report(
        card=report.card,
        generation=report.generation,
        phase=report.phase,
        attempt=report.attempt,
        last_attempt=report.last_attempt,
        pid=report.pid,
        silent_s=silent_s,
        data=report.data,
    )


_DEATH_WORDS = {
    "low memory": "Ray ended it, because the machine had too little memory left",
    "worker process has died": "its process ended: it crashed, or was killed by a person, "
    "or because the machine had no memory left (`dmesg` shows it)",
}
"""Signs in Ray's message about an actor that ended, each with words for a person."""


def _death_reason(died: Exception) -> str:
    """Return in one line why a worker ended; the whole of Ray's message goes to the log."""
    log.warning("a worker is gone: %s", safe_line(died, 2_000))
    for sign, words in _DEATH_WORDS.items():
        if sign in str(died):
            return words
    lines = [line.strip() for line in str(died).splitlines() if line.strip()]
    relevant = [
        line
        for line in lines
        if "Error" in line or "exit" in line or "killed" in line or "died" in line
    ]
    last = (relevant or lines or [type(died).__name__])[-1]
    return safe_line(last.removeprefix("RuntimeError: "), 300)  # WorkerActor's wrapping
