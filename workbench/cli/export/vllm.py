"""`workbench vllm`: a folder from which vLLM serves an adapter beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.arguments import Json
from workbench.cli.export.merge import chosen_adapter, keep_report
from workbench.cli.tables import as_json, print_answer, print_note
from workbench.text import safe_line


def vllm_command(
    source: Annotated[str, typer.Argument(metavar="TRIAL|FOLDER", help="A trial or an adapter.")],
    target: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where it goes.")],
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; by default the folder's.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Copy an adapter for vLLM, check rank and modules, and print the command that serves it."""
    from workbench.adapters.vllm_folder import write_vllm_folder  # imports the recipe's YAML
    from workbench.recipe.names import is_local

    chosen = chosen_adapter(source)
    written = write_vllm_folder(chosen.folder, target, name or target.absolute().name)
    keep_report(chosen, "vllm", target, {"command": written.command, "scores": chosen.own.values})
    if is_local(written.base) and not Path(written.base).is_dir():
        print_note(f"its base {safe_line(written.base)} is not here: name the folder where it is")
    if as_data:
        as_json(written)
        return
    print_answer(f"{safe_line(target)}: rank {written.rank}, {', '.join(written.modules)}")
    print_answer(f"  {safe_line(written.command, 2000)}")
