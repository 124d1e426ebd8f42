"""The engine itself: stop, and go on after all."""

from __future__ import annotations

from typing import Any

from workbench.formatting import plural
from workbench.scheduler.handlers import done
from workbench.scheduler.tick_context import STOPPING, TickContext
from workbench.store.rows import Answer


def stop(context: TickContext, args: dict[str, Any]) -> Answer:
    """Meant for the keeper it names: one that lay here while that was killed stops nobody else."""
    meant = args.get("keeper")
    if meant is not None and context.keeper is not None and meant != context.keeper:
        return done("the engine that was to stop had ended by then; this one goes on")
    context.store.set_fact(STOPPING, str(context.store.clock()))
    live = len(context.store.live_attempts())
    what = f"{plural(live, 'trial')} checkpoint{'s' * (live == 1)} first"
    return done(f"the engine stops; {what if live else 'nothing is running'}")


def start(context: TickContext, args: dict[str, Any]) -> Answer:
    """While it was stopping: it goes on, and what gave its card back is placed again."""
    was = context.stopping
    context.store.set_fact(STOPPING, "")
    return done("the engine was stopping and goes on" if was else "the engine runs")
