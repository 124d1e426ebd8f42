"""`workbench export-recipe`: a plain script of TRL and PEFT that trains a trial's adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.arguments import Json
from workbench.cli.child import ask_for_report
from workbench.cli.export.merge import ChosenAdapter, chosen_adapter
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.errors import NotThere, UsageError
from workbench.machine import staging
from workbench.text import safe_line, shell_word

MODULE = "workbench.export.trl_script"


def export_recipe_command(
    source: Annotated[
        str, typer.Argument(metavar="TRIAL|FOLDER", help="A trial, or the adapter that it left.")
    ],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes.")],
    trl: Annotated[
        bool, typer.Option("--trl", help="As a script of TRL and PEFT; the only kind so far.")
    ] = False,
    as_data: Json = False,
) -> None:
    """Write a plain script, with the rows, that trains the same adapter without the workbench."""
    if not trl:
        raise UsageError("no kind of script is named", hint="add --trl")
    staging.refuse_existing(target)
    chosen = chosen_adapter(source)
    if chosen.trial is not None and chosen.trial.warm_trial is not None:
        raise UsageError(
            f"trial {chosen.trial.id} continued from trial {chosen.trial.warm_trial}",
            hint="a script begins with a new adapter; export the first trial",
        )
    if chosen.own.rows is None:
        raise NotThere(
            f"the prepared rows of {safe_line(source)} are not in the cache",
            hint=_way_to_rows(chosen),
        )
    rows = chosen.own.rows.with_name("train.arrow")
    report = ask_for_report(MODULE, str(chosen.folder), str(rows), str(target))
    if as_data:
        as_json(report)
        return
    print_answer(f"{safe_line(target)}: {report['rows']} rows, {report['steps']} steps")
    print_answer(f"  python {shell_word(target / 'train.py')}")
    for note in report["notes"]:
        print_note(safe_line(note))


def _way_to_rows(chosen: ChosenAdapter) -> str:
    """Return how to get the rows of an adapter whose prepared rows are not in the cache.

    Prepared again, they have another digest if data or the workbench's version changed since.
    """
    if chosen.trial is None:
        return "name the trial by its id"
    check = f"workbench check {shell_word(chosen.folder / 'recipe.yaml')}"
    return (
        f"prepare them again: {check}; if they are still missing then, data or version changed: "
        f"`workbench reproduce {chosen.trial.id}` trains it again, to be exported instead"
    )
