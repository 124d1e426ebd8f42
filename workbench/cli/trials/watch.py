"""`workbench watch`: an experiment in plain lines, for a dumb terminal or a log file."""

from __future__ import annotations

import sys
from typing import Annotated, TextIO

import typer

from workbench import formatting
from workbench.cli.tables import out, tell
from workbench.cli.trials.control import revive
from workbench.cli.trials.follow import follow
from workbench.cli.trials.listing import newest
from workbench.service import Service
from workbench.text import safe_line

Name = Annotated[
    str | None,
    typer.Argument(metavar="[EXPERIMENT]", help="Its name or id; left out: the newest."),
]


def watch(
    experiment: Name = None,
    every: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=1, max=86_400, help="Say how it stands so often."),
    ] = 60.0,
) -> None:
    """Follow an experiment to its end in plain lines; ctrl-c leaves."""
    service = Service()
    revive(service)
    id = service.experiment(experiment if experiment is not None else newest(service)).id
    try:
        follow(service, id, out, beat_s=every)
    except KeyboardInterrupt:
        tell(f"left; training goes on (workbench watch {id}, or workbench)")
        raise
    found, rows = service.board(id)
    best = next((row for row in rows if row.rank == 1), None)
    score = (
        "" if best is None else f"; best trial {best.trial}, score {formatting.score(best.score)}"
    )
    text = f"{safe_line(found.name)} has ended: {formatting.counts_line(found.counts)}{score}"
    out(text)
    ring(text, sys.stdout)
    raise typer.Exit(1 if found.counts.get("failed") else 0)


def ring(text: str, stream: TextIO) -> None:
    """Bell and desktop notice, where somebody looks at a terminal."""
    if stream.isatty():
        stream.write(formatting.notice(text))
        stream.flush()
