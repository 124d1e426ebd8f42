"""The folder of an experiment, written again from the database where a person removed it."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.machine.files import write_durably
from workbench.store.rows import Experiment


def restore_folder(folder: Path, experiment: Experiment) -> None:
    """Write the recipe and what was prepared into `folder`, unless both are there.

    The rows themselves are in the cache, and are prepared again by the attempt where they are not.
    """
    for name, content in (
        ("recipe.json", experiment.recipe),
        ("prepared.json", experiment.prepared),
    ):
        if content is not None and not (folder / name).exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(folder / name, json.dumps(content, indent=2).encode())
