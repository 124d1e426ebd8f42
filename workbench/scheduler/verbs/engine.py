"""The engine itself: stop, and go on after all."""

from __future__ import annotations

from typing import Any

from workbench.present import plural
from workbench.scheduler.desk import STOPPING, Desk
from workbench.scheduler.verbs import done
from workbench.store.rows import Answer


def stop(desk: Desk, args: dict[str, Any]) -> Answer:
    """Meant for the keeper it names: one that lay here while that was killed stops nobody else."""
    meant = args.get("keeper")
    if meant is not None and desk.keeper is not None and meant != desk.keeper:
        return done("the engine that was to stop had ended by then; this one goes on")
    desk.store.set_fact(STOPPING, str(desk.store.clock()))
    live = len(desk.store.live_attempts())
    what = f"{plural(live, 'trial')} checkpoint{'s' * (live == 1)} first"
    return done(f"the engine stops; {what if live else 'nothing is running'}")


def start(desk: Desk, args: dict[str, Any]) -> Answer:
    """While it was stopping: it goes on, and what gave its card back is placed again."""
    was = desk.stopping
    desk.store.set_fact(STOPPING, "")
    return done("the engine was stopping and goes on" if was else "the engine runs")
