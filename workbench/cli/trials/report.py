"""`workbench report`: an experiment as one HTML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.arguments import ExperimentOrNewest
from workbench.cli.revival import revive_engine
from workbench.cli.tables import as_json, print_answer
from workbench.cli.trials.listing import chosen_experiment
from workbench.errors import UsageError
from workbench.service import Service
from workbench.text import safe_line


def report_command(
    experiment: ExperimentOrNewest = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The file; default: NAME.html here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print the file's path as JSON.")] = False,
) -> None:
    """Write an experiment's report: one HTML file that any browser opens, also from a mail.

    It holds the verdict, the board with intervals, curves, the score against each setting, data
    facts, sample answers and the recipe. No scripts, nothing loaded from elsewhere.
    """
    from workbench.report.facts import gather_facts
    from workbench.report.saving import save_report

    service = Service()
    revive_engine(service)
    facts = gather_facts(service, chosen_experiment(service, experiment))
    name = facts.board.experiment.name
    # A name may hold any printable character, also a slash; a file of it must lie here.
    path = out if out is not None else Path(re.sub(r"[^\w.-]+", "-", name) + ".html")
    if path.is_file() and not force:
        raise UsageError(f"{path} exists already", hint="use --force, or another name with -o")
    save_report(facts, path)
    if as_data:
        as_json({"experiment": name, "path": str(path.absolute())})
    else:
        print_answer(f"the report of {safe_line(name)} is in {path}")
