"""`workbench adapters`, `tag`, `note`, `archive`: the adapters of a home and words about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json, TrialId
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.errors import UsageError
from workbench.library.inventory import AdapterEntry, list_adapters
from workbench.library.marks import TrialMarks, archive_experiment, change_marks, read_marks
from workbench.service import Service
from workbench.text import safe_line


def adapters_command(
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="Its name or id; without one, all.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", "-t", help="Only those with this tag; repeatable.")
    ] = None,
    as_data: Json = False,
) -> None:
    """List adapters: base, data, settings, scores, size, tags and notes."""
    service = Service()
    reader = service.opened_reader()
    chosen = None if experiment is None else reader.experiment(experiment).id
    found = list_adapters(service.home, reader, tags=tag or (), experiment=chosen)
    if as_data:
        as_json(found)
        return
    if not found:
        print_note(_why_none(experiment, tag or ()))
        return
    out_table(
        ("trial", "experiment", "score", "base", "data", "size", "settings", "tags"),
        [_cells(one) for one in found],
        right=("trial", "score", "size"),
        flexible="settings",
        optional=("tags", "data", "base"),
    )
    for one in found:
        if one.note:
            print_answer(f"{one.trial}: {safe_line(one.note)}")
        if not one.present:
            print_answer(f"{one.trial}: its folder is gone or not whole", "yellow")


def _why_none(experiment: str | None, tags: Sequence[str]) -> str:
    """Return why no adapter is listed, and what to do."""
    where = "" if experiment is None else f" of {safe_line(experiment)}"
    if not tags:
        return f"no adapter{where} here; `workbench run RECIPE` trains one"
    names = " and ".join(safe_line(one) for one in tags)
    return f"no adapter{where} has the tag {names}; `workbench adapters` shows all with their tags"


def _cells(one: AdapterEntry) -> tuple[object, ...]:
    revision = f"@{one.revision[:7]}" if one.revision else ""
    return (
        one.trial,
        one.experiment,
        formatting.score(one.score),
        f"{one.base.rstrip('/').rpartition('/')[2]}{revision}",
        one.data_digest[:8] or "-",
        formatting.size(one.bytes),
        formatting.brief_settings(one.settings),
        " ".join(one.tags) or "-",
    )


def tag_command(
    trial: TrialId,
    tags: Annotated[list[str] | None, typer.Argument(metavar="TAG", help="Tags to add.")] = None,
    drop: Annotated[
        list[str] | None, typer.Option("--drop", "-d", metavar="TAG", help="A tag to remove.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Put tags on a trial, or remove them; without any, show its tags and its note."""
    service = Service()
    found = service.opened_reader().trial(trial)
    if tags or drop:
        had = read_marks(service.home, trial, found.created_utc).tags
        for tag in drop or ():
            if tag not in had:
                print_note(f"trial {trial} has no tag {safe_line(tag, 40)}")
        marks = change_marks(
            service.home, trial, found.created_utc, add=tags or (), drop=drop or ()
        )
    else:
        marks = read_marks(service.home, trial, found.created_utc)
    _print_marks(trial, marks, as_data)


def note_command(
    trial: TrialId,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The note; '' removes it.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Write a note on a trial in place of the one it has; without a text, show it."""
    service = Service()
    found = service.opened_reader().trial(trial)
    if words is None:
        marks = read_marks(service.home, trial, found.created_utc)
    else:
        marks = change_marks(service.home, trial, found.created_utc, note=" ".join(words))
    _print_marks(trial, marks, as_data)


def _print_marks(trial: int, marks: TrialMarks, as_data: bool) -> None:
    if as_data:
        as_json({"trial": trial, "tags": marks.tags, "note": marks.note})
        return
    print_answer(f"trial {trial}: {safe_line(' '.join(marks.tags)) or 'no tags'}")
    if marks.note:
        print_answer(f"  {safe_line(marks.note)}")


def archive_command(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Its name or id.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take it back into the lists.")] = False,
    as_data: Json = False,
) -> None:
    """Leave an ended experiment out of lists; nothing of it is removed."""
    service = Service()
    found = service.opened_reader().experiment(name)
    if not undo and found.is_unfinished:
        raise UsageError(
            f"{safe_line(found.name)} has not ended",
            hint=f"wait for it, or end it: workbench stop {safe_line(found.name)}",
        )
    archive_experiment(service.home, found.id, found.created_utc, archived=not undo)
    if as_data:
        as_json({"experiment": found.id, "name": found.name, "archived": not undo})
        return
    how = "is listed again" if undo else "is archived; `workbench ls --all` lists it"
    print_answer(f"experiment {safe_line(found.name)} {how}")
