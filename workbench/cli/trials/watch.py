"""`workbench watch`: follow an experiment in plain lines, for a simple terminal or a log file."""

from __future__ import annotations

import sys
from typing import Annotated, TextIO

import typer

from workbench import formatting
from workbench.cli.arguments import ExperimentOrNewest
from workbench.cli.revival import revive_engine
from workbench.cli.tables import json_line, print_answer, print_note
from workbench.cli.trials.board import board_answer
from workbench.cli.trials.follow import follow_experiment
from workbench.cli.trials.listing import chosen_experiment
from workbench.service import Service
from workbench.text import safe_line


def watch_command(
    experiment: ExperimentOrNewest = None,
    every: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86_400,
            help="After so many silent seconds, print a status line.",
        ),
    ] = 60.0,
    as_data: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per change of a trial.")
    ] = False,
) -> None:
    """Follow an experiment to its end in plain lines; ctrl-c leaves."""
    service = Service()
    revive_engine(service)
    id = service.experiment(chosen_experiment(service, experiment)).id
    try:
        if as_data:
            follow_experiment(service, id, print_note, on_trial=json_line)
        else:
            follow_experiment(service, id, print_answer, beat_s=every)
    except KeyboardInterrupt:
        print_note(f"stopped following; training continues (workbench watch {id}, or workbench)")
        raise
    board = service.judged_board(id)
    found = board.experiment
    if as_data:
        json_line({"experiment": found.id, "name": found.name, **board_answer(board)})
        raise typer.Exit(1 if found.counts.get("failed") else 0)
    text = f"{safe_line(found.name)} has ended: {formatting.counts_line(found.outcomes)}"
    print_answer(text)
    print_answer(board.verdict)
    ring_bell(f"{text}; {board.verdict}", sys.stdout)
    raise typer.Exit(1 if found.counts.get("failed") else 0)


def ring_bell(text: str, stream: TextIO) -> None:
    """Ring the bell and raise a desktop notification, where the stream is a terminal."""
    if stream.isatty():
        stream.write(formatting.desktop_notice(text))
        stream.flush()
