"""`workbench train`: one trial in the foreground, in a child process, without engine or Ray.

The child is `python -m workbench.training.foreground FOLDER`. It reads FOLDER/recipe.json and
FOLDER/factors.json (what the home's attempts measured, since training may not read the store),
trains, prints plan, metrics, scores and the adapter's path, and leaves everything in FOLDER. The
command exits with its exit code. A folder that holds the same recipe resumes from its newest
checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.child import run_child
from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.recipes.run import RecipeName, Settings, load_with_settings
from workbench.cli.tables import print_note
from workbench.errors import UsageError, WorkbenchError
from workbench.home import find_home
from workbench.machine.python_children import python_command
from workbench.service import Service

if TYPE_CHECKING:
    from workbench.recipe import Recipe

MODULE = "workbench.training.foreground"


def train_command(
    recipe: RecipeName,
    settings: Settings = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where checkpoints and adapter go."),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option("--card", metavar="CARD", help="The card to train on, as `cards` names it."),
    ] = None,
    as_data: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per event.")
    ] = False,
) -> None:
    """Train one trial in the foreground, without the engine.

    It takes the card with the most free memory that no engine uses, unless --card names one.
    """
    found = load_with_settings(recipe, settings)
    if found.sweep is not None:
        print_note("the recipe's sweep is ignored: one trial runs, with the recipe's own values")
        found = found.model_copy(update={"sweep": None})
    run_folder = prepare_folder(folder or default_folder(found.name), found)
    write_factors(run_folder)
    print_note(f"training in {run_folder}; ctrl-c checkpoints and ends it")
    more = ["--json"] * as_data + ([f"--card={card}"] if card else [])
    raise typer.Exit(run_child(python_command(MODULE, str(run_folder), *more)))


def write_factors(folder: Path) -> None:
    """Write into the folder what the home's attempts measured, with which the child plans.

    A store that cannot be read costs the correction, not the training.
    """
    from workbench.footprint.measured_peaks import factors_to_json

    try:
        factors = measured_history(Service()).factors
    except WorkbenchError as broken:
        print_note(f"planned without what was measured here: {broken.what}")
        factors = {}
    (folder / "factors.json").write_text(json.dumps(factors_to_json(factors)), encoding="utf-8")


def default_folder(name: str) -> Path:
    """Return a new folder's path under the home, named after the recipe and the time.

    Creates the home: a folder that only held `foreground` would later not pass for one.
    """
    word = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:40] or "trial"
    return find_home().make().root / "foreground" / f"{word}-{time.strftime('%Y%m%d-%H%M%S')}"


def prepare_folder(folder: Path, recipe: Recipe) -> Path:
    """Write recipe.json into `folder` and return its absolute path.

    The folder is created if it is missing. Raises UsageError where it holds another recipe or any
    other file, WorkbenchError where it cannot be written.
    """
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
