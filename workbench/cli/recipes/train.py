"""`workbench train`: one trial in the foreground, in a child, without engine or Ray.

The child is `python -m workbench.training.foreground FOLDER`: it reads FOLDER/recipe.json, trains,
prints plan, metrics, scores and the adapter's path, and leaves everything in FOLDER. Its exit code
is ours. A folder with the same recipe is gone on with, from its newest checkpoint.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.child import run_child
from workbench.cli.recipes.run import RecipeName, Settings, read
from workbench.cli.tables import tell
from workbench.errors import UsageError, WorkbenchError
from workbench.home import find_home

if TYPE_CHECKING:
    from workbench.recipe import Recipe

MODULE = "workbench.training.foreground"


def train(
    recipe: RecipeName,
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where checkpoints and adapter go."),
    ] = None,
) -> None:
    """Train one trial here and now, without the engine."""
    found = read(recipe, settings)
    if found.sweep is not None:
        tell("the sweep is left out: one trial with the recipe's own values")
        found = found.model_copy(update={"sweep": None})
    run_folder = prepare_folder(folder or default_folder(found.name), found)
    tell(f"training in {run_folder}; ctrl-c ends it")
    raise typer.Exit(run_child([sys.executable, "-m", MODULE, str(run_folder)]))


def default_folder(name: str) -> Path:
    """A new folder under the workbench's home."""
    word = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:40] or "trial"
    return find_home().root / "foreground" / f"{word}-{time.strftime('%Y%m%d-%H%M%S')}"


def prepare_folder(folder: Path, recipe: Recipe) -> Path:
    """`folder` with recipe.json in it: new, empty, or holding this very recipe."""
    os.umask(0o077)
    body = recipe.model_dump_json(indent=2)
    file = folder / "recipe.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.exists():
            if file.read_text(encoding="utf-8") != body:
                raise UsageError(
                    f"{folder} holds a trial of another recipe", hint="name another --out"
                )
        elif any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="name another --out")
        else:
            file.write_text(body, encoding="utf-8")
    except OSError as refused:
        raise WorkbenchError(
            f"{folder} cannot be written: {refused.strerror}",
            hint="name a folder of yours by --out",
        ) from refused
    return folder.absolute()
