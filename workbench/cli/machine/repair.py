"""`workbench repair`: rebuild the database from the home's folders."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.home import find_home
from workbench.text import safe_line


def repair_command(
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Rebuild a healthy database too."),
    ] = False,
    as_data: Json = False,
) -> None:
    """Rebuild a damaged or lost database from what the home still holds.

    Every trial comes back paused; `workbench resume` continues it. Nothing is deleted: the old
    database is kept under another name. The engine must be stopped. It may be run repeatedly.
    """
    from workbench.store.recovery import repair as store_repair

    home = find_home()
    found = store_repair.repair_database(home, anyway=anyway, say=print_note)
    if as_data:
        as_json(found.to_json())
        return
    if found.sound:
        print_answer(f"{home.database} is healthy; nothing was done")
        return
    if found.wrong:
        print_note(f"the problem was: {found.wrong}")
    counts = (
        formatting.plural(n, name.rstrip("s").replace("_", " ")) for name, n in found.counts.items()
    )
    print_answer(f"restored: {', '.join(counts)}")
    source = f"its backup {found.backup}" if found.backup else "no backup"
    first = "the home's folders" if found.salvaged else "its journal"
    print_answer(f"from: {first}, the attempts' event files, {source}")
    if found.paused:
        ids = " ".join(str(id) for id in found.paused[:20])
        more = " …" if len(found.paused) > 20 else ""
        print_answer(
            f"paused: {formatting.plural(len(found.paused), 'trial')}; workbench resume {ids}{more}"
        )
    for id in found.held:
        print_answer(f"held, because its sweep would start new trials: workbench release {id}")
    if found.pending:
        ids = ", ".join(str(id) for id in found.pending[:20])
        print_answer(f"ended meanwhile, recorded when the engine starts: trials {ids}")
    for line in found.lost:
        print_answer(f"not restored: {safe_line(line)}", "yellow")
    if found.aside:
        print_answer(f"the old database is kept in {home.root / found.aside}")
