"""The loop: one process with the store and the fleet, ticking until it is told to stop.

Crash-only: it may be killed at any line, and the next one goes on from the store. It exits 0 only
when a person asked the engine to stop; its keeper takes any other end for a crash.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from workbench import fault_points
from workbench.errors import EngineError, StoreError, WorkbenchError
from workbench.fleet.ray_fleet import RayFleet
from workbench.home import STOPPED_BY_A_PERSON, Home, find_home
from workbench.machine.files import write_durably
from workbench.machine.locks import Lock, holder
from workbench.machine.processes import KEEPER, die_with_parent
from workbench.machine.sampler import CardSample, read_sample
from workbench.redact import log_without_secrets
from workbench.scheduler import TickContext, tick
from workbench.scheduler.children.notifier import Notifier
from workbench.scheduler.children.preparer import Preparer
from workbench.scheduler.guards.disk import give_up_ballast
from workbench.scheduler.recover import rescue_all
from workbench.scheduler.tick_context import BRAKE, CARDS_PROBLEM, STOPPING
from workbench.store import Blocked, Store, damage
from workbench.store.backup import Daily
from workbench.user_config import ConfigWatch

TICK_S = 0.25
STOP_LIMIT_S = 90.0
"""Trials that have not checkpointed by then are left to resume from an older one."""

log = logging.getLogger("workbench.engine")


def main() -> int:
    log_without_secrets("%(asctime)s %(levelname)s %(message)s")
    die_with_parent()
    try:
        home = find_home().make()
        lock = Lock(home.loop_lock)
        _take(lock)
        try:
            store = Store(home.database)
        except StoreError as refused:  # trying again mends nothing: as if a person had stopped it
            log.error("%s; %s", refused.what, refused.hint)
            write_durably(home.stopped, f"{refused.what}\n{refused.hint}\n".encode())
            return 0
        return _run(home, store)
    except WorkbenchError as refused:
        log.error("%s; %s", refused.what, refused.hint)
        return refused.exit_code


def _take(lock: Lock, patience_s: float = 3.0) -> None:
    until = time.monotonic() + patience_s
    while not lock.take():
        if time.monotonic() > until:
            raise EngineError(
                f"process {holder(lock.path)} runs an engine on {lock.path.parent} already",
                hint="use that one; `workbench engine stop` ends it",
            )
        time.sleep(0.05)


def _run(home: Home, store: Store) -> int:
    address = os.environ["WORKBENCH_RAY"]
    fleet = RayFleet(str(home.root), address, store.next_generation)
    context = TickContext(
        home=home,
        store=store,
        fleet=fleet,
        preparer=Preparer(home),
        sample=CardWatch(home, store),
        fleet_ready=fleet.connect,
        notifier=Notifier(home, _notify_command()),
        keeper=int(os.environ.get(KEEPER) or 0) or None,
    )
    _begin(context)
    keeper = int(os.environ.get(KEEPER) or os.getppid())  # it may have died before we asked
    patience, daily = Patience(), Daily(home.database, home.backups)
    while os.getppid() == keeper:
        try:
            home.tick.touch()
            tick(context)
            if trouble := daily.look():
                store.note("backup", trouble, level="warning")
            if _may_stop(context, patience):
                _stop(context)
                store.close()  # folds its log into it: one file is left
                return 0
        except (OSError, Blocked) as full:
            ride_out(context, full)
            time.sleep(1.0)
        time.sleep(TICK_S)
    log.error("the keeper is gone")
    return 1


def _notify_command() -> Callable[[], list[str] | None]:
    """From the user's own configuration alone: a recipe may come from a stranger."""
    watch = ConfigWatch()
    return lambda: watch().notify.command


def ride_out(context: TickContext, error: OSError | Blocked) -> None:
    """What cut a tick short and passes: on a full disk the ballast goes. Raises what does not."""
    if not passes(error):
        raise error
    log.error("this tick was cut short: %s", error)
    if is_full(error):
        give_up_ballast(context)


def passes(error: Exception) -> bool:
    """True for a full disk and for somebody else's lock on the database: trials train on
    meanwhile, and the next tick tries again."""
    return is_full(error) or (isinstance(error, Blocked) and damage.passes(error))


def is_full(error: Exception) -> bool:
    if isinstance(error, Blocked):
        return error.sqlite_errorname == "SQLITE_FULL"
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _begin(context: TickContext) -> None:
    """Whatever ran before ran on workers that are gone with their head."""
    store = context.store
    if os.environ.get("WORKBENCH_FRESH"):
        store.set_fact(STOPPING, "")
    store.set_fact(BRAKE, os.environ.get("WORKBENCH_BRAKE", ""))
    rescue_all(context, "the engine was restarted")
    why = os.environ.get("WORKBENCH_WHY", "")
    again = f"the engine was restarted: {why}; what ran goes on from its last checkpoint"
    store.note("engine", again if why else "the engine is up", level="warning" if why else "debug")
    log.info("loop up")


class Patience:
    """How long we have been stopping, by the monotonic clock: the wall clock may jump."""

    def __init__(self) -> None:
        self._since_s: float | None = None

    def over(self, stopping: bool, now_s: float) -> bool:
        if not stopping:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        return self._since_s is not None and now_s - self._since_s > STOP_LIMIT_S


def _may_stop(context: TickContext, patience: Patience) -> bool:
    over = patience.over(context.stopping, time.monotonic())
    return context.stopping and (over or not context.store.live_attempts())


def _stop(context: TickContext) -> None:
    """Workers end, the marker is set; the keeper sees our exit and ends the head.

    STOPPING goes last: killed before, the next loop has still to stop, and not to train on.
    """
    context.preparer.close()
    context.thinner.close()
    context.fleet.close()
    rescue_all(context, "the engine was stopped before it had checkpointed")
    context.store.wait_all("the engine is stopped")
    context.store.note("engine", "the engine was stopped", level="info")
    fault_points.at("engine.before_stopped")
    write_durably(context.home.stopped, STOPPED_BY_A_PERSON)
    context.store.set_fact(STOPPING, "")


class CardWatch:
    """Rows for the cards table, once for each new sample and once when it has stalled."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home = home
        self._store = store
        self._seen: object = None

    def __call__(self) -> list[dict[str, Any]] | None:
        sample = read_sample(self._home.sample, time.time())
        key = (sample.at_utc, sample.stalled)
        if key == self._seen:
            return None
        self._seen = key
        self._store.set_fact(CARDS_PROBLEM, sample.problem)
        if not sample.cards:
            return None
        return [_row(card, sample.problem if sample.stalled else "") for card in sample.cards]


def _row(seen: CardSample, problem: str) -> dict[str, Any]:
    card = seen.card
    return {
        "uuid": card.uuid,
        "kind": card.kind,
        "name": card.name,
        "total_bytes": card.total_bytes,
        "cap_bytes": card.cap_bytes,
        "capability": f"{card.capability[0]}.{card.capability[1]}" if card.capability else None,
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
