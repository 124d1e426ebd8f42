"""`workbench logs`: a trial's log, across its attempts."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.tables import print_answer, print_note
from workbench.cli.trials.control import revive_engine
from workbench.cli.trials.listing import TrialId
from workbench.service import Service
from workbench.store.rows import EventRow
from workbench.text import safe_line, safe_text

POLL_S = 0.2
ALL = 1_000_000


def logs_command(
    trial: TrialId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the trial has ended.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", min=1, help="Lines to print, the newest ones.")] = 50,
) -> None:
    """Print a trial's log."""
    service = Service()
    revive_engine(service)
    service.trial(trial)
    attempt, last = None, 0
    ended = not follow
    limit = lines
    while True:
        # The state is read before the lines, so that the last lines are not missed.
        ended = ended or service.trial(trial).trial.state.final
        for event in service.events(trial=trial, after=last, limit=limit):
            if event.attempt not in (None, attempt):
                attempt = event.attempt
                print_answer(f"-- attempt {attempt}", "dim")
            _print_event(event)
            last, limit = event.id, ALL
        if ended:
            break
        _wait_for_news(service)
    if follow:
        row = service.trial(trial).trial
        print_note(
            f"{formatting.who(row)} is {row.state}"
            + (f": {safe_line(row.reason)}" if row.reason else "")
        )


def _wait_for_news(service: Service) -> None:
    seen = service.version()
    while service.version() == seen:
        time.sleep(POLL_S)
    if seen[1] != "stopped" and service.version()[1] == "stopped":
        print_note("the engine was stopped; `workbench engine start` continues training")


def _print_event(event: EventRow) -> None:
    level = "" if event.level in ("info", "debug") else f"{event.level}: "
    colour = {"error": "red", "warning": "yellow", "debug": "dim"}.get(event.level, "")
    text = safe_text(event.text, 1 << 16).replace("\n", "\n" + " " * 10)
    print_answer(f"{formatting.clock(event.at_utc)}  {level}{text}", colour)
