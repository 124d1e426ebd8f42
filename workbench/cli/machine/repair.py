"""`workbench repair`: the database built anew from the home's own folders."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.tables import as_json, out, tell
from workbench.home import find_home
from workbench.text import safe_line


def repair(
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Rebuild a sound database too, everything paused.")
    ] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rebuild a damaged or lost database from what the home still holds.

    Everything comes back paused; `workbench resume` lets a trial go on. Nothing is deleted: the
    old database is put aside. Wants the engine stopped; may be run again at any time.
    """
    from workbench.store import repair as store_repair

    home = find_home()
    found = store_repair.repair(home, anyway=anyway, say=tell)
    if as_data:
        as_json(found.to_json())
        return
    if found.sound:
        out(f"{home.database} is sound; nothing was done")
        return
    if found.wrong:
        tell(f"what was wrong: {found.wrong}")
    counts = (formatting.plural(n, name.rstrip("s")) for name, n in found.counts.items())
    out(f"came back: {', '.join(counts)}")
    source = f"its backup {found.backup}" if found.backup else "no backup"
    first = "the home's folders" if found.salvaged else "its journal"
    out(f"from: {first}, the attempts' event files, {source}")
    if found.paused:
        ids = " ".join(str(id) for id in found.paused[:20])
        more = " …" if len(found.paused) > 20 else ""
        out(
            f"paused: {formatting.plural(len(found.paused), 'trial')}; workbench resume {ids}{more}"
        )
    for id in found.held:
        out(f"held, for it would make more trials: workbench release {id}")
    if found.pending:
        ids = ", ".join(str(id) for id in found.pending[:20])
        out(f"ended meanwhile, and taken in when the engine starts: trials {ids}")
    for line in found.lost:
        out(f"not brought back: {safe_line(line)}", "yellow")
    if found.aside:
        out(f"the old database: {home.root / found.aside}")
