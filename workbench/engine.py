"""The engine's loop: one process with the store and the fleet, which ticks until it is stopped.

The loop is crash-only: it may be killed at any line, and the next one continues from the store.
It exits with 0 only when a person asked the engine to stop; its keeper treats any other end as a
crash.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import fault_points
from workbench.cluster.settings import read_head
from workbench.errors import EngineError, StoreError, WorkbenchError
from workbench.fleet import RayLost
from workbench.fleet.kernel_cache import prune_kernels
from workbench.fleet.ray_fleet import RayFleet
from workbench.home import STOPPED_BY_A_PERSON, Home, find_home, lock_warning
from workbench.machine.files import has_room, is_full_disk, write_durably
from workbench.machine.locks import Lock, lock_holder, shared_folder
from workbench.machine.processes import EXIT_NO_ROOM, EXIT_RAY_LOST, KEEPER, die_with_parent
from workbench.machine.sampler import CardReading, load_reading
from workbench.scheduler import TickContext, tick
from workbench.scheduler.attempt_ends import sleep_until_an_end
from workbench.scheduler.children.notifier import Notifier
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.children.sink_processes import SinkProcesses
from workbench.scheduler.guards.disk import release_reserve_file
from workbench.scheduler.recover import requeue_all
from workbench.scheduler.tick_context import BRAKE, CARDS_PROBLEM, STOPPING
from workbench.store import Blocked, Store, card_table, trial_queue
from workbench.store.recovery import damage
from workbench.store.recovery.backup import Daily
from workbench.text.redact import log_without_secrets
from workbench.user_config import ConfigWatch

if TYPE_CHECKING:
    from workbench.fleet.boxes.cluster_fleet import ClusterFleet

TICK_S = 0.25
"""Seconds of sleep between two ticks, unless an attempt ends."""
BOXES_EVERY_S = 1.0
"""Seconds between two records of a cluster's cards: each box is read at a time of its own, and all
cards together take a fifth of a second where they are 512."""
STOP_LIMIT_S = 90.0
"""Seconds that a stopping engine waits for checkpoints; trials that have none by then resume from
an older one.
"""

log = logging.getLogger("workbench.engine")


def main() -> int:
    """Run the loop; return its exit code: 0 when the engine was stopped, else a crash for the
    keeper.
    """
    log_without_secrets("%(asctime)s %(levelname)s %(message)s")
    die_with_parent()
    try:
        home = find_home().make()
        lock = Lock(home.loop_lock)
        _take(lock)
        try:
            store = Store(home.database)
        except StoreError as refused:
            if not has_room(home.root):  # SQLite has many words for a full disk
                raise
            # Retrying cannot help: stay stopped, and show why.
            log.error("%s; %s", refused.what, refused.hint)
            write_durably(home.stopped, f"{refused.what}\n{refused.hint}\n".encode())
            return 0
        return _run(home, store)
    except RayLost as lost:
        log.error("%s", lost)
        return EXIT_RAY_LOST
    except (OSError, Blocked, WorkbenchError) as refused:
        if not has_room(find_home().root):
            log.error("the disk is full, so the engine cannot start: %s", refused)
            return EXIT_NO_ROOM
        if not isinstance(refused, WorkbenchError):
            raise
        log.error("%s; %s", refused.what, refused.hint)
        return refused.exit_code


def _take(lock: Lock, patience_s: float = 3.0) -> None:
    """Take the loop's lock; EngineError where another engine holds it for `patience_s`."""
    until = time.monotonic() + patience_s
    while not lock.take():
        if time.monotonic() > until:
            raise EngineError(
                f"process {lock_holder(lock.path)} runs an engine on {lock.path.parent} already",
                hint="use that one; `workbench engine stop` ends it",
            )
        time.sleep(0.05)


def _run(home: Home, store: Store) -> int:
    address = os.environ["WORKBENCH_RAY"]
    generations = partial(card_table.next_generation, store)
    cluster = _cluster_fleet(home, address, generations) if read_head(home) else None
    fleet = cluster or RayFleet(str(home.root), address, generations)
    context = TickContext(
        home=home,
        store=store,
        fleet=fleet,
        preparer=Preparer(home),
        sample=CardWatch(home, store, shared_folder(), cluster.readings if cluster else None),
        fleet_ready=fleet.connect,
        notifier=Notifier(home, _notify_command()),
        keeper=int(os.environ.get(KEEPER) or 0) or None,
    )
    prune_kernels(home)
    _begin(context)
    keeper = int(os.environ.get(KEEPER) or os.getppid())  # it may have died before we asked
    patience, daily = Patience(), Daily(home.database, home.backups)
    sinks = SinkProcesses(home, context.config)
    while os.getppid() == keeper:
        try:
            home.tick.touch()
            tick(context)
            for level, text in cluster.take_notes() if cluster else ():
                store.note("box", text, level=level)
            if trouble := daily.look():
                store.note("backup", trouble, level="warning")
            for level, text in sinks.look():
                store.note("sink", text, level=level)
            if _may_stop(context, patience):
                _stop(context, sinks)
                store.close()  # folds its log into it: one file is left
                return 0
        except (OSError, Blocked) as full:
            survive_error(context, full)
            time.sleep(1.0)
        sleep_until_an_end(context, TICK_S)
    log.error("the keeper is gone")
    return 1


def _cluster_fleet(home: Home, address: str, generations: Callable[[str], int]) -> ClusterFleet:
    from workbench.fleet.boxes.cluster_fleet import ClusterFleet  # 0.1 s that one machine saves

    return ClusterFleet(str(home.root), address, generations)


def _notify_command() -> Callable[[], list[str] | None]:
    """Return a function that reads notify.command from the user's own configuration.

    Recipes cannot name a command, because a recipe may come from a stranger.
    """
    watch = ConfigWatch()
    return lambda: watch().notify.command


def survive_error(context: TickContext, error: OSError | Blocked) -> None:
    """Log an error that cut a tick short and may pass; raise it where it cannot.

    On a full disk the reserve file is released, so that the next tick can write.
    """
    if not is_survivable(error):
        raise error
    log.error("this tick was cut short: %s", error)
    if is_full_disk_error(error):
        release_reserve_file(context)


def is_survivable(error: Exception) -> bool:
    """Return True for a full disk and for another process's lock on the database: trials train on
    meanwhile, and the next tick tries again.
    """
    return is_full_disk_error(error) or (isinstance(error, Blocked) and damage.is_transient(error))


def is_full_disk_error(error: Exception) -> bool:
    """Return True where the error says that the disk, or the user's quota on it, is full."""
    if isinstance(error, Blocked):
        return error.sqlite_errorname == "SQLITE_FULL"
    return is_full_disk(error)


def _begin(context: TickContext) -> None:
    """Bring the store up to date at the loop's start: whatever ran before ran on workers that have
    ended together with their head.
    """
    store = context.store
    if os.environ.get("WORKBENCH_FRESH"):
        store.set_fact(STOPPING, "")
    store.set_fact(BRAKE, os.environ.get("WORKBENCH_BRAKE", ""))
    requeue_all(context, "the engine was restarted")
    why = os.environ.get("WORKBENCH_WHY", "")
    again = f"the engine was restarted: {why}; what ran goes on from its last checkpoint"
    store.note("engine", again if why else "the engine is up", level="warning" if why else "debug")
    log.info("loop up")


class Patience:
    """The time for which the engine has been stopping, by the monotonic clock: the wall clock may
    jump.
    """

    def __init__(self) -> None:
        self._since_s: float | None = None

    def over(self, stopping: bool, now_s: float) -> bool:
        """Return True once the engine has been stopping for STOP_LIMIT_S."""
        if not stopping:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return self._since_s is not None and now_s - self._since_s > STOP_LIMIT_S


def _may_stop(context: TickContext, patience: Patience) -> bool:
    over = patience.over(context.stopping, time.monotonic())
    return context.stopping and (over or not context.store.live_attempts())


def _stop(context: TickContext, sinks: SinkProcesses) -> None:
    """End the workers and write the marker; the keeper sees this process's exit and ends the head.

    STOPPING is cleared last: after a kill before that, the next loop still has to stop, and not
    to train.
    """
    context.preparer.close()
    context.pruner.close()
    context.fleet.close()
    requeue_all(context, "the engine was stopped before it had checkpointed")
    sinks.close()
    trial_queue.explain_all(context.store, "the engine is stopped")
    context.store.note("engine", "the engine was stopped", level="info")
    fault_points.at("engine.before_stopped")
    write_durably(context.home.stopped, STOPPED_BY_A_PERSON)
    context.store.set_fact(STOPPING, "")


class CardWatch:
    """A source of rows for the cards table: once for each sample, and once when samples stop."""

    def __init__(
        self,
        home: Home,
        store: Store,
        shared: Path | None,
        boxes: Callable[[], list[tuple[CardReading, str]]] | None = None,
    ) -> None:
        """Watch the samples of `home`; `shared` is the folder of the locks that users share.

        `boxes` returns the cards of a cluster's other machines, each with its problem.
        """
        self._home = home
        self._store = store
        self._warning = lock_warning(shared)
        self._boxes = boxes
        self._seen: object = None
        self._recorded_s = float("-inf")

    def __call__(self) -> list[dict[str, Any]] | None:
        sample = load_reading(self._home.sample, time.time())
        others = self._boxes() if self._boxes is not None else []
        if others and time.monotonic() - self._recorded_s < BOXES_EVERY_S:
            return None
        key = (sample.at_utc, sample.stalled, others)
        if key == self._seen:
            return None
        self._seen = key
        self._recorded_s = time.monotonic()
        self._store.set_fact(CARDS_PROBLEM, sample.problem)
        if self._warning and any(reading.card.kind == "cuda" for reading in sample.cards):
            self._store.note("cards", self._warning, level="warning")
            log.warning("%s", self._warning)
            self._warning = ""
        if not sample.cards and not others:
            return None
        stalled = sample.problem if sample.stalled else ""
        return [
            *(_row(card, stalled) for card in sample.cards),
            *(_row(card, problem) for card, problem in others),
        ]


def _row(seen: CardReading, problem: str) -> dict[str, Any]:
    card = seen.card
    return {
        "uuid": card.uuid,
        "kind": card.kind,
        "name": card.name,
        "total_bytes": card.total_bytes,
        "cap_bytes": card.cap_bytes,
        "capability": f"{card.capability[0]}.{card.capability[1]}" if card.capability else None,
        "index": seen.index,
        "bus": seen.bus,
        "free_bytes": seen.free_bytes,
        "utilisation": seen.utilisation,
        "temperature_c": seen.temperature_c,
        "power_w": seen.power_w,
        "power_limit_w": seen.power_limit_w,
        "energy_j": seen.energy_j,
        "ecc_errors": seen.ecc_errors,
        "processes": [asdict(process) for process in seen.processes],
        "xid_watch": None if seen.xid_watch is None else int(seen.xid_watch),
        "xids": json.dumps(seen.xids),
        "lost": int(seen.lost),
        "problem": problem or seen.problem,
    }


if __name__ == "__main__":
    sys.exit(main())
