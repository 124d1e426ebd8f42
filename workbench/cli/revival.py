"""The revival of a dead engine, before commands that only read and before the screen."""

from __future__ import annotations

from workbench.cli.tables import print_note
from workbench.errors import WorkbenchError
from workbench.service import Service
from workbench.trial import State

_UNFINISHED = frozenset({State.QUEUED, State.STARTING, State.RUNNING})


def revive_engine(service: Service) -> None:
    """Start a dead engine that has work waiting, and report an engine in trouble on stderr.

    Commands that only read call this first. It raises nothing: what can be read is shown in every
    state of the engine.
    """
    if not service.home.database.exists():
        return
    engine = service.engine()
    try:
        if engine.has_ended and not _work_waits(service):
            return
        if engine.state == "down":
            print_note("the engine was not running and work waits: starting it")
            service.start_engine()
        elif engine.has_ended:
            print_note(f"the engine is {engine.state}; `workbench engine start` continues training")
        elif engine.detail:
            print_note(f"engine: {engine.detail}")
    except (WorkbenchError, OSError) as refused:
        print_note(f"the engine cannot be started: {refused}")


def _work_waits(service: Service) -> bool:
    return (
        service.any_trials(_UNFINISHED)
        or any(one.state == "preparing" for one in service.experiments())
        or any(service.home.requests.glob("[!.]*.json"))
    )
