"""`workbench engine`: start it, stop it, ask how it is."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.tables import as_json, out, tell
from workbench.cli.trials.control import answered
from workbench.service import Engine, Service

START_S = 90.0
STOP_S = 600.0
"""Running trials write a checkpoint first, which a slow disk may take its time for."""

app = typer.Typer(help="Start or stop the engine, or ask how it is.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def start(as_data: Json = False) -> None:
    """Start the engine; unfinished trials go on from their checkpoints."""
    service = Service()
    stopping = service.stopping()
    if stopping or service.engine().state != "running":
        tell("it was stopping: it goes on" if stopping else "starting the engine (some seconds)")
        service.start_engine()
        service.wait_for_engine(running=True, timeout_s=START_S)
    _print(service, as_data)


@app.command()
def stop(as_data: Json = False) -> None:
    """Checkpoint what runs, give the cards back, and stay stopped."""
    service = Service()
    state = service.engine().state
    if state == "down":
        service.home.make().stopped.touch()  # so that no later command starts it unasked
    elif state != "stopped":
        request = service.stop_engine()
        tell(answered(service, request).text)
        service.wait_for_engine(running=False, timeout_s=STOP_S)
    _print(service, as_data)


@app.command()
def status(as_data: Json = False) -> None:
    """How the engine is."""
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
        out(_words(engine, service))


def _words(engine: Engine, service: Service) -> str:
    running = "" if engine.pid is None else f" (pid {engine.pid})"
    why = f": {engine.detail}" if engine.detail and engine.state not in ("stopped", "down") else ""
    hint = {
        "stopped": "; `workbench engine start` lets training go on",
        "down": "; the next command that lists or runs something starts it",
        "late": "; its keeper starts it anew after 30 s",
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
        for state, n in experiment.counts.items():
            counts[state] = counts.get(state, 0) + n
    return counts
