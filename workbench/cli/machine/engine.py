"""`workbench engine start`, `stop` and `status`."""

from __future__ import annotations

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.cluster.settings import read_joined
from workbench.errors import EngineError, UsageError
from workbench.machine.files import has_room
from workbench.service import EngineStatus, Service

START_S = 90.0
"""Seconds that a start may take."""
STOP_S = 600.0
"""Seconds that a stop may take: running trials write a checkpoint first, maybe to a slow disk."""

app = typer.Typer(help="Start or stop the engine, or show its state.", no_args_is_help=True)


@app.command("start")
def engine_start_command(as_data: Json = False) -> None:
    """Start the engine; unfinished trials continue from their checkpoints."""
    service = Service()
    if (joined := read_joined(service.home)) is not None:
        raise UsageError(
            f"this machine is a box of the cluster at {joined.head}, which has the engine",
            hint=f"workbench cluster join {joined.head} connects it again",
        )
    stopping, state = service.stopping(), service.engine().state
    if stopping or state != "running":
        goes_on = stopping and state != "stopping"  # else its loop has ended, and starts again
        print_note(
            "the engine was stopping; it now continues"
            if goes_on
            else "starting the engine (takes some seconds)"
        )
        service.start_engine()
        service.wait_for_engine(running=True, timeout_s=START_S)
    _print(service, as_data)


@app.command("stop")
def engine_stop_command(as_data: Json = False) -> None:
    """Checkpoint running trials, free the cards, and stay stopped."""
    service = Service()
    if service.engine().state not in ("down", "stopped"):
        _ask_to_stop(service)
        service.wait_for_engine(running=False, timeout_s=STOP_S)
    if service.engine().state == "down":  # also where its keeper was killed meanwhile
        # The file keeps later commands from starting the engine without being asked.
        service.home.make().stopped.touch()
    if ended := service.end_leftovers():
        print_note(f"ended what a killed engine had left behind: {', '.join(sorted(ended))}")
    _print(service, as_data)


def _ask_to_stop(service: Service) -> None:
    """Ask the engine to stop; end a keeper by a signal where no loop reads requests."""
    # Then its keeper waits for room, and nobody reads requests.
    waits = service.engine().state == "starting" and not has_room(service.home.root)
    if not waits:
        try:
            if request := service.stop_engine():
                print_note(service.wait_for_answer(request).text)
            return
        except EngineError:
            if has_room(service.home.root):
                raise
    print_note("the disk is full: trials continue later from the checkpoints that they have")
    if not service.end_without_room():
        print_note("the disk has no room to note the stop: the next command may start the engine")


@app.command("status")
def engine_status_command(as_data: Json = False) -> None:
    """Show the engine's state."""
    _print(Service(), as_data)


def _print(service: Service, as_data: bool) -> None:
    engine = service.engine()
    if as_data:
        as_json(
            {
                "state": engine.state,
                "pid": engine.pid,
                "tick_age_s": engine.tick_age_s,
                "detail": engine.detail,
                "home": str(service.home.root),
            }
        )
    else:
        print_answer(_words(engine, service))


def _words(engine: EngineStatus, service: Service) -> str:
    running = "" if engine.pid is None else f" (pid {engine.pid})"
    why = f": {engine.detail}" if engine.detail and engine.state not in ("stopped", "down") else ""
    hint = {
        "stopped": "; `workbench engine start` continues training",
        "down": "; the next command that lists or runs something starts it",
        "late": "; its keeper restarts it after 30 s",
    }.get(engine.state, "")
    words = {"down": "not running", "late": "not answering", "stopped": engine.detail or "stopped"}
    counts = formatting.counts_line(_counts(service))
    return (
        f"engine {words.get(engine.state, engine.state)}{running}{why}{hint}\n"
        f"trials {counts}\nhome   {service.home.root}"
    )


def _counts(service: Service) -> dict[str, int]:
    counts: dict[str, int] = {}
    for experiment in service.experiments():
        for state, n in experiment.outcomes.items():
            counts[state] = counts.get(state, 0) + n
    return counts
