"""`workbench rm` and `workbench trash`: remove trials and experiments, and get them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.confirmation import confirm_name, confirm_word
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.library.removal import plan_removal, remove_planned
from workbench.library.removed import RemovalRecord
from workbench.library.trash import empty_trash, list_trash, restore_from_trash
from workbench.service import Service
from workbench.text import safe_line, shell_word

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def rm_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="TRIAL|EXPERIMENT", help="Trials' ids, or experiments' names."),
    ],
    yes: Yes = False,
    as_data: Json = False,
) -> None:
    """Remove ended trials or whole experiments to the trash; asks for the name."""
    service = Service()
    reader = service.opened_reader()
    words = list(dict.fromkeys(names))
    records = [plan_removal(service.home, reader, word, service.clock()) for word in words]
    if not yes:
        for word, record in zip(words, records, strict=True):
            _confirm_name(word, names, record)
    removed = remove_planned(service.home, records)
    if as_data:
        as_json(removed)
        return
    for record in removed:
        print_answer(
            f"{safe_line(record.about)} is in the trash, {formatting.size(record.bytes)}; "
            f"`workbench trash restore {record.entry}` puts it back"
        )


def _confirm_name(word: str, names: Sequence[str], record: RemovalRecord) -> None:
    """Ask for one of the names to be typed again; otherwise raise WorkbenchError: all stay."""
    held = formatting.plural(len(record.trials), "trial")
    print_note(f"{safe_line(record.about)} ({held}, {formatting.size(record.bytes)}):")
    print_note("its checkpoints, adapters and results go to the trash")
    confirm_name(word, "rm", names, verb="remove", done="removed")


app = typer.Typer(help="Show, restore or empty the trash.", no_args_is_help=True)


@app.command("ls")
def list_command(as_data: Json = False) -> None:
    """List what was removed and can be restored."""
    found = list_trash(Service().home)
    if as_data:
        as_json(found)
        return
    if not found:
        print_note("the trash is empty")
        return
    rows = [
        (
            one.entry,
            one.about,
            len(one.trials),
            formatting.size(one.bytes),
            formatting.date_time(one.removed_utc),
        )
        for one in found
    ]
    heads = ("entry", "what", "trials", "size", "removed")
    out_table(heads, rows, right=("trials", "size"), flexible="what")


@app.command("restore")
def restore_command(
    entries: Annotated[
        list[str], typer.Argument(metavar="ENTRY", help="Names that `trash ls` shows.")
    ],
    as_data: Json = False,
) -> None:
    """Put removed trials and experiments back."""
    service = Service()
    restored = [restore_from_trash(service.home, entry) for entry in dict.fromkeys(entries)]
    if as_data:
        as_json(restored)
        return
    for one in restored:
        print_answer(f"{safe_line(one.about)} is back")
        for entry in _experiments_left(service, one):
            print_note(
                "its experiment is still in the trash, and lists leave out both: "
                f"workbench trash restore {entry}"
            )


def _experiments_left(service: Service, restored: RemovalRecord) -> list[str]:
    """Return the entries of the trash with the experiments of trials that were restored."""
    reader = service.opened_reader()
    of_trials = {reader.trial(id).experiment for id in restored.trials}
    return [one.entry for one in list_trash(service.home) if of_trials & one.experiments.keys()]


@app.command("empty")
def empty_command(
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="ENTRY", help="Only these; by default everything."),
    ] = None,
    yes: Yes = False,
    as_data: Json = False,
) -> None:
    """Delete what is in the trash for good; asks first."""
    home = Service().home
    known = [one for one in list_trash(home) if not entries or one.entry in entries]
    if known and not yes:
        size = formatting.size(sum(one.bytes for one in known))
        print_note(f"{formatting.plural(len(known), 'removal')}, {size}, cannot be restored then")
        words = "".join(f" {shell_word(entry)}" for entry in entries or ())
        without = f"workbench trash empty --yes{words}"
        confirm_word("empty", "delete them", without=without, done="deleted")
    deleted = empty_trash(home, entries or None)
    if as_data:
        as_json(deleted)
        return
    size = formatting.size(sum(one.bytes for one in deleted))
    print_answer(f"{formatting.plural(len(deleted), 'removal')} deleted, {size}")
