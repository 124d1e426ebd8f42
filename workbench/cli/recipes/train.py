"""`workbench train`: one trial in the foreground, in a child process, without engine or Ray.

The child is `python -m workbench.training.foreground FOLDER`. It reads FOLDER/recipe.json,
FOLDER/warm.json (the adapter to start from, where one is named) and FOLDER/factors.json (what the
home's attempts measured, since training may not read the store), trains, prints plan, metrics,
scores and the adapter's path, and leaves everything in FOLDER. The command exits with its exit
code. A folder that holds the same recipe resumes from its newest checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.adapters.adapter_folder import WEIGHTS
from workbench.cli.child import run_child
from workbench.cli.errors import INTERRUPTED
from workbench.cli.export.merge import adapter_of
from workbench.cli.recipes.measured_history import measured_history
from workbench.cli.recipes.run import RecipeName, Settings, load_with_settings
from workbench.cli.tables import print_note
from workbench.errors import CheckpointError, UsageError, WorkbenchError
from workbench.home import find_home
from workbench.machine.python_children import python_command
from workbench.machine.staging import file_sha256
from workbench.service import Service
from workbench.text import safe_line

if TYPE_CHECKING:
    from workbench.recipe import Recipe

MODULE = "workbench.training.foreground"
WARM = "warm.json"


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
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="TRIAL|FOLDER", help="Start from the adapter of a trial, or in a folder."
        ),
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
    warm = None if warm_start is None else find_warm_source(warm_start)
    run_folder = prepare_folder(folder or default_folder(found.name), found, warm)
    write_factors(run_folder)
    more = ["--json"] * as_data + ([f"--card={card}"] if card else [])
    code = run_child(python_command(MODULE, str(run_folder), *more))
    if folder is None and code not in (0, INTERRUPTED) and not (run_folder / "attempts").exists():
        shutil.rmtree(run_folder, ignore_errors=True)  # refused before it began
    raise typer.Exit(code)


def find_warm_source(name: str) -> dict[str, Any]:
    """Return the adapter of a trial or in a folder as an assignment's `warm` names it.

    Its SHA-256 is the one that the trial left, or that of the file now. Raises NotThere for a trial
    or a folder without an adapter, CheckpointError where its weights cannot be read.
    """
    folder = adapter_of(name).absolute()
    if name.isdecimal():
        reader = Service().reader()
        known = None if reader is None else reader.adapter_sha256(int(name))
        return {"trial": int(name), "folder": str(folder), "sha256": known}
    try:
        digest = file_sha256(folder / WEIGHTS)
    except OSError as gone:
        raise CheckpointError(
            f"the adapter in {safe_line(folder)} has no readable {WEIGHTS}: {gone.strerror}",
            hint="save it again with PEFT's save_pretrained, which writes safetensors",
        ) from gone
    return {"trial": None, "folder": str(folder), "sha256": digest}


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


def prepare_folder(folder: Path, recipe: Recipe, warm: dict[str, Any] | None = None) -> Path:
    """Write recipe.json, and warm.json for a warm start, into `folder`; return its absolute path.

    The folder is created if it is missing. A trial that is already there keeps the adapter that it
    starts from. Raises UsageError where the folder holds another recipe, another warm start or any
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
            _check_same_start(folder, warm)
        elif any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty", hint="name another --out")
        else:
            if warm is not None:  # before the recipe, which makes the folder a trial's
                (folder / WARM).write_text(json.dumps(warm), encoding="utf-8")
            file.write_text(body, encoding="utf-8")
    except OSError as refused:
        raise WorkbenchError(
            f"{folder} cannot be written: {refused.strerror}",
            hint="name a folder of yours by --out",
        ) from refused
    return folder.absolute()


def _check_same_start(folder: Path, warm: dict[str, Any] | None) -> None:
    """Raise UsageError where the folder's trial does not start from the adapter `warm`."""
    file = folder / WARM
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if warm is not None and warm != before:
        start = "a new LoRA" if before is None else "another adapter"
        raise UsageError(
            f"{folder} holds a trial that starts from {start}",
            hint="name another --out, or leave out --warm-start to continue it",
        )
