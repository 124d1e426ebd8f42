"""The recipe of an evaluation: that of the trials, with other rows and nothing to train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from workbench.adapters.adapter_folder import AdapterFolder
from workbench.adapters.base_names import same_base
from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.recipe import Recipe, apply_settings, read_recipe
from workbench.recipe.names import DATA_ENDINGS, is_local, is_shipped
from workbench.text import safe_line

ALL_ROWS = 10**9
"""Value of `data.eval_rows` that stands for every row of the file."""
SECTIONS = ("data.", "evaluate.", "model.")
"""Settings that an evaluation may change; all others belong to the training of an adapter."""
_NO_ROWS = ("test", "test_split", "test_rows", "eval_split", "max_rows")


def evaluation_recipe(
    source: Recipe,
    data: str,
    *,
    name: str,
    rows: int | None = None,
    resolved: Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Recipe:
    """Return the recipe that scores adapters of `source` on the rows that `data` names.

    `rows` limits them to the first ones. `resolved` is what was decided once for the experiment of
    `source`: scores in another precision could not be compared with those it has. `settings` are
    changes by dotted key, which win. Raises RecipeError for settings that are not accepted.
    """
    changed = dict(settings or {})
    if apart := sorted(key for key in changed if not key.startswith(SECTIONS)):
        raise UsageError(
            f"{safe_line(', '.join(apart), 120)} cannot be changed for an evaluation: it belongs "
            "to the training of an adapter",
            hint="settings of data, evaluate and model can",
        )
    none = {f"data.{key}": None for key in _NO_ROWS}
    given: dict[str, object] = {
        "name": safe_line(name, 80),
        "data.eval": data,
        "data.eval_rows": rows or ALL_ROWS,
    }
    judged_otherwise = {"evaluate.answer_pattern", "evaluate.scorer"} & set(changed)
    given["evaluate.rank_by"] = "auto" if judged_otherwise else _rank_by(source)
    return apply_settings(source, {**none, **(resolved or {}), **given, **changed})


def find_rows(data: str) -> str:
    """Return the file or folder absolute, or the name of a shipped file or a hub data set.

    Raises NotThere for a path without a file.
    """
    path = Path(data).expanduser()
    if is_shipped(data):
        return data
    if path.exists():
        return os.path.abspath(path)
    if data.startswith((".", "/", "~")) or data.lower().endswith(DATA_ENDINGS):
        raise NotThere(
            f"there is no file {safe_line(os.path.abspath(path), 200)}",
            hint="name a jsonl, json, csv, parquet or txt file, a folder of such files, or a data "
            "set of the hub",
        )
    return data


def _rank_by(source: Recipe) -> str:
    """Return the board's score, which without the sweep may be another one; or `auto`."""
    return source.rank_by if source.rank_by in ("loss", *source.evaluate.scorers) else "auto"


def folder_recipe(found: AdapterFolder, data: str, base: str | None = None) -> Recipe:
    """Return the recipe to score a folder with, where no trial of the home gives one.

    An adapter that the workbench made has its recipe beside it; for any other one, defaults on the
    base that its configuration names, or on `base`. Raises UsageError where neither is here.
    """
    base = base or found.settings.base
    own = own_recipe(found.folder)
    if own is not None and same_base(base, own.model.name):
        return own
    if not base or (is_local(base) and not os.path.isdir(base)) or base.startswith((".", "~")):
        where = f"{safe_line(base, 160)}, which is not here" if base else "no base"
        raise UsageError(
            f"the adapter in {safe_line(found.folder, 200)} names {where}",
            hint="name the base: -s model.name=NAME, with --same-base",
        )
    return Recipe.model_validate(
        {
            "name": found.folder.name or "adapter",
            "model": {"name": base},
            "data": {"train": data, "eval": data},
            "lora": {"rank": found.rank, "targets": "all-linear"},
        }
    )


def own_recipe(folder: Path) -> Recipe | None:
    """Return the recipe that the workbench saved in the folder; None for any other file."""
    file = folder / "recipe.yaml"
    try:
        if not file.is_file() or file.stat().st_size > 1 << 20:
            return None
        text = file.read_text(encoding="utf-8")
        # Files that it names may be gone; only this machine's paths are looked at.
        return read_recipe(text, file=str(file), folder=folder)
    except (OSError, ValueError, WorkbenchError):
        return None
