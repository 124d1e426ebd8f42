"""`workbench du` and `workbench prune`: the bytes that a home takes, and those nobody needs."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench import formatting
from workbench.cli.arguments import Json
from workbench.cli.confirmation import confirm_word
from workbench.cli.tables import as_json, out_table, print_answer, print_note
from workbench.library.prunable import find_prunable, prune_folders
from workbench.library.usage import KINDS, measure_usage
from workbench.service import Service
from workbench.text import shell_word


def du_command(as_data: Json = False) -> None:
    """Show the bytes that each experiment takes on the disk, and caches, logs and the trash."""
    service = Service()
    used = measure_usage(service.home, service.reader())
    if as_data:
        experiments = [
            {"id": one.id, "name": one.name, "bytes": one.bytes, "total_bytes": one.total_bytes}
            for one in used.experiments
        ]
        as_json(
            {
                "experiments": experiments,
                "shared": used.shared,
                "total_bytes": used.total_bytes,
            }
        )
        return
    rows: list[tuple[object, ...]] = [
        (
            one.name,
            *(formatting.size(one.bytes[kind]) for kind in KINDS),
            formatting.size(one.total_bytes),
        )
        for one in used.experiments
    ]
    rows += [
        (name, *("-" for _ in KINDS), formatting.size(size)) for name, size in used.shared.items()
    ]
    rows.append(("everything", *("-" for _ in KINDS), formatting.size(used.total_bytes)))
    heads = ("experiment", *KINDS, "all")
    out_table(heads, rows, right=heads[1:], flexible="experiment")


def prune_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="EXPERIMENT", help="Only these; by default everything."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only show what would be pruned.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_data: Json = False,
) -> None:
    """Move checkpoints of ended trials that have an adapter, and unused rows, to the trash.

    The adapters stay: their trials can be extended, exported and evaluated as before. `workbench
    trash empty` frees the bytes.
    """
    service = Service()
    reader = service.opened_reader()
    chosen = [reader.experiment(name) for name in names] if names else None
    found = find_prunable(service.home, reader, chosen)
    total = sum(one.bytes for one in found)
    if found and not as_data:
        rows = [(one.folder, formatting.size(one.bytes), one.why) for one in found]
        out_table(("folder", "size", "why"), rows, right=("size",))
    if dry_run:
        if as_data:
            as_json({"folders": found, "bytes": total})
        else:
            print_answer(f"{formatting.size(total)} in all; nothing was moved")
        return
    if found and not yes:
        purpose = f"move {formatting.size(total)} to the trash"
        words = "".join(f" {shell_word(name)}" for name in names or ())
        confirm_word("prune", purpose, without=f"workbench prune --yes{words}", done="moved")
    record = prune_folders(service.home, found, service.clock())
    if as_data:
        as_json(record)
        return
    print_note("`workbench trash empty` frees the bytes")
    print_answer(f"{formatting.size(total)} moved to the trash as {record.entry}")
