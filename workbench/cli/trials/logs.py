"""`workbench logs`: what a trial told, across its attempts."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.tables import out, tell
from workbench.cli.trials.control import revive
from workbench.cli.trials.listing import TrialId
from workbench.service import Service
from workbench.store.rows import EventRow
from workbench.text import safe, safe_line

POLL_S = 0.2
ALL = 1_000_000


def logs(
    trial: TrialId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the trial has ended.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", min=1, help="How many of the newest lines.")] = 50,
) -> None:
    """Print a trial's log."""
    service = Service()
    revive(service)
    service.trial(trial)
    attempt, last = None, 0
    ended = not follow
    limit = lines
    while True:
        # asked before the lines are read, so that the last ones are not missed
        ended = ended or service.trial(trial).trial.state.final
        for event in service.events(trial=trial, after=last, limit=limit):
            if event.attempt not in (None, attempt):
                attempt = event.attempt
                out(f"-- attempt {attempt}", "dim")
            _print_event(event)
            last, limit = event.id, ALL
        if ended:
            break
        _wait_for_news(service)
    if follow:
        row = service.trial(trial).trial
        tell(
            f"{formatting.who(row)} is {row.state}"
            + (f": {safe_line(row.reason)}" if row.reason else "")
        )


def _wait_for_news(service: Service) -> None:
    seen = service.version()
    while service.version() == seen:
        time.sleep(POLL_S)
    if seen[1] != "stopped" and service.version()[1] == "stopped":
        tell("the engine was stopped; `workbench engine start` lets training go on")


def _print_event(event: EventRow) -> None:
    level = "" if event.level in ("info", "debug") else f"{event.level}: "
    colour = {"error": "red", "warning": "yellow", "debug": "dim"}.get(event.level, "")
    text = safe(event.text, 1 << 16).replace("\n", "\n" + " " * 10)
    out(f"{formatting.clock(event.at_utc)}  {level}{text}", colour)
