"""Handlers for the engine itself: stop, and continue after all."""

from __future__ import annotations

from typing import Any

from workbench.formatting import plural
from workbench.scheduler.handlers import accepted
from workbench.scheduler.tick_context import STOPPING, TickContext
from workbench.store.rows import RequestAnswer


def stop_engine(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Stop the engine once what runs has checkpointed.

    The request names its keeper: one that was not read before that keeper was killed stops no
    other.
    """
    meant = args.get("keeper")
    if meant is not None and context.keeper is not None and meant != context.keeper:
        return accepted("the engine that was to stop had ended by then; this one goes on")
    context.store.set_fact(STOPPING, str(context.store.clock()))
    live = len(context.store.live_attempts())
    what = f"{plural(live, 'trial')} checkpoint{'s' * (live == 1)} first"
    return accepted(f"the engine stops; {what if live else 'nothing is running'}")


def start_engine(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Cancel a stop that is under way; trials that gave their card back are placed again."""
    was = context.stopping
    context.store.set_fact(STOPPING, "")
    return accepted("the engine was stopping and goes on" if was else "the engine runs")
