"""The loop: one process with the store and the fleet, ticking until it is told to stop.

Crash-only: it may be killed at any line, and the next one goes on from the store. It exits 0 only
when a person asked the engine to stop; its keeper takes any other end for a crash.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import Any

from workbench.card_sampler import STALLED, read_sample
from workbench.cards import Card
from workbench.errors import EngineError, WorkbenchError
from workbench.files import write_durably
from workbench.fleet.ray_fleet import RayFleet
from workbench.home import Home, find_home
from workbench.locks import Lock, holder
from workbench.processes import die_with_parent
from workbench.scheduler import Desk, tick
from workbench.scheduler.desk import BRAKE, STOPPING
from workbench.scheduler.preparer import Preparer
from workbench.scheduler.rescue import rescue_all
from workbench.store import Store

TICK_S = 0.25
STOP_LIMIT_S = 90.0
"""Trials that have not checkpointed by then are left to resume from an older one."""

log = logging.getLogger("workbench.engine")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    die_with_parent()
    home = find_home().make()
    lock = Lock(home.loop_lock)
    try:
        _take(lock)
        return _run(home)
    except WorkbenchError as refused:
        log.error("%s; %s", refused.what, refused.mend)
        return refused.exit_code


def _take(lock: Lock, patience_s: float = 10.0) -> None:
    until = time.monotonic() + patience_s
    while not lock.take():
        if time.monotonic() > until:
            raise EngineError(
                f"process {holder(lock.path)} runs an engine on {lock.path.parent} already",
                mend="use that one; `workbench engine stop` ends it",
            )
        time.sleep(0.05)


def _run(home: Home) -> int:
    store = Store(home.database)
    address = os.environ["WORKBENCH_RAY"]
    fleet = RayFleet(str(home.root), address, store.next_generation)
    desk = Desk(
        home=home,
        store=store,
        fleet=fleet,
        preparer=Preparer(home),
        sample=CardWatch(home),
        fleet_ready=fleet.connect,
    )
    _begin(desk)
    keeper = os.getppid()
    while os.getppid() == keeper:
        home.tick.touch()
        tick(desk)
        if _may_stop(desk):
            _stop(desk)
            return 0
        time.sleep(TICK_S)
    log.error("the keeper is gone")
    return 1


def _begin(desk: Desk) -> None:
    """Whatever ran before ran on workers that are gone with their head."""
    store = desk.store
    if os.environ.get("WORKBENCH_FRESH"):
        store.set_fact(STOPPING, "")
    store.set_fact(BRAKE, os.environ.get("WORKBENCH_BRAKE", ""))
    rescue_all(desk, "the engine was restarted")
    store.note("engine", "the engine is up", level="debug")
    log.info("loop up")


def _may_stop(desk: Desk) -> bool:
    since = desk.store.fact(STOPPING)
    if not since:
        return False
    waited_s = abs(desk.store.clock() - float(since))
    return not desk.store.live_attempts() or waited_s > STOP_LIMIT_S


def _stop(desk: Desk) -> None:
    """Workers end, the marker is set; the keeper sees our exit and ends the head."""
    desk.preparer.close()
    desk.fleet.close()
    rescue_all(desk, "the engine was stopped before it had checkpointed")
    desk.store.set_fact(STOPPING, "")
    desk.store.note("engine", "the engine was stopped", level="info")
    write_durably(desk.home.stopped, b"stopped by a person\n")


class CardWatch:
    """Rows for the cards table, once for each new sample."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: object = None

    def __call__(self) -> list[dict[str, Any]] | None:
        sample = read_sample(self._home.sample, time.time())
        if sample is None or sample.key == self._seen:
            return None
        self._seen = sample.key
        return [_row(card, sample.stalled) for card in sample.cards]


def _row(card: dict[str, Any], stalled: bool) -> dict[str, Any]:
    known = Card.from_json({name: card[name] for name in Card.__slots__})
    capability = known.capability
    return {
        "uuid": known.uuid,
        "kind": known.kind,
        "name": known.name,
        "total_bytes": known.total_bytes,
        "cap_bytes": known.cap_bytes,
        "capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "free_bytes": card.get("free_bytes"),
        "utilisation": card.get("utilisation"),
        "temperature_c": card.get("temperature_c"),
        "power_w": card.get("power_w"),
        "processes": card.get("processes", []),
        "problem": STALLED if stalled else str(card.get("problem") or ""),
    }


if __name__ == "__main__":
    sys.exit(main())
