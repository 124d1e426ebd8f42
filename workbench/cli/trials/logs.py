"""`workbench logs`: a trial's log, across its attempts."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import TrialId
from workbench.cli.revival import revive_engine
from workbench.cli.tables import json_line, print_answer, print_note
from workbench.service import Service
from workbench.store.rows import EventRow
from workbench.text import safe_line, safe_text

POLL_S = 0.2
"""Seconds between two looks for new lines."""
ALL = 1_000_000
"""More lines than any trial logs."""
PROGRESS = ("progress", "checkpoint")
"""Kinds of events that are shown without --debug although their level is debug."""


def logs_command(
    trial: TrialId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the trial has ended.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Print facts about kernels and settings too.")
    ] = False,
    as_data: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
    lines: Annotated[int, typer.Option("-n", min=1, help="Lines to print, the newest ones.")] = 50,
) -> None:
    """Print a trial's log."""
    service = Service()
    revive_engine(service)
    service.trial(trial)
    attempt, last = None, 0
    newest: int | None = lines
    ended = not follow
    while True:
        # The state is read before the lines, so that the last lines are not missed.
        ended = ended or service.trial(trial).trial.state.final
        events = service.events(trial=trial, after=last, limit=ALL)
        last = events[-1].id if events else last
        shown = [one for one in events if debug or one.level != "debug" or one.kind in PROGRESS]
        for event in shown[-newest:] if newest else shown:
            if as_data:
                json_line(event)
            else:
                _print_event(event, event.attempt not in (None, attempt))
            attempt = event.attempt or attempt
        newest = None
        if ended:
            break
        _wait_for_news(service)
    if not last:
        print_note(f"trial {trial} has logged nothing; `workbench show {trial}` shows its state")
    if follow:
        row = service.trial(trial).trial
        print_note(
            f"{formatting.trial_name(row)} is {row.state}"
            + (f": {safe_line(row.reason)}" if row.reason else "")
        )


def _wait_for_news(service: Service) -> None:
    seen = service.version()
    while service.version() == seen:
        time.sleep(POLL_S)
    if seen[1] != "stopped" and service.version()[1] == "stopped":
        print_note("the engine was stopped; `workbench engine start` continues training")


def _print_event(event: EventRow, new_attempt: bool) -> None:
    """Print an event's line, below a heading where it is the first of another attempt."""
    if new_attempt:
        print_answer(f"-- attempt {event.attempt}", "dim")
    level = "" if event.level in ("info", "debug") else f"{event.level}: "
    colour = {"error": "red", "warning": "yellow", "debug": "dim"}.get(event.level, "")
    text = safe_text(event.text, 1 << 16).replace("\n", "\n" + " " * 10)
    print_answer(f"{formatting.clock(event.at_utc)}  {level}{text}", colour)
