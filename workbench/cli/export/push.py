"""`workbench push`: an adapter or a merged model on a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.child import ask_for_report
from workbench.cli.confirmation import confirm_name
from workbench.cli.export.merge import adapter_of
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.text import safe_line

MODULE = "workbench.export.push"


def push_command(
    source: Annotated[
        str, typer.Argument(metavar="TRIAL|FOLDER", help="A trial, an adapter or a merged model.")
    ],
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read it; by default it is private.")
    ] = False,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask for the name again.")] = False,
    as_data: Json = False,
) -> None:
    """Upload an adapter or a merged model to the hub, privately unless --public. Needs HF_TOKEN."""
    merged = Path(source) / "config.json"
    folder = Path(source) if merged.is_file() else adapter_of(source)
    more = ["--public"] if public else []
    if not sure:
        ask_for_report(MODULE, str(folder), name, "--check")  # before it is typed again
        seen = "everybody can read" if public else "only its owner can read"
        print_note(f"{safe_line(folder)} goes to {safe_line(name)}, which {seen}")
        confirm_name(name, "push", (source, name), verb="upload to", done="uploaded")
    report = ask_for_report(MODULE, str(folder), name, *more)
    if as_data:
        as_json(report)
        return
    seen = "private" if report["private"] else "public"
    files = formatting.plural(len(report["files"]), "file")
    print_answer(f"{safe_line(report['url'])}: {seen}, {files}, {formatting.size(report['bytes'])}")
    print_answer(f"  commit {safe_line(report['commit'])}")
