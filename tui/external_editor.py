"""The terminal, lent to a person's editor: a trial as a recipe, and what was changed in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App

from workbench.errors import RecipeError, UsageError, WorkbenchError
from workbench.service import Experiment, TrialRow


def edited(
    app: App[Any], row: TrialRow, experiment: Experiment, drafts: dict[int, Path]
) -> dict[str, Any]:
    """The settings that differ in the text as it was left; a text with mistakes is among `drafts`
    and opened again the next time. WorkbenchError for those, and where nothing was changed."""
    from workbench.trial_edits import as_recipe, as_text, changed, edit, new_text

    recipe = as_recipe(experiment, row.settings)
    begun = as_text(recipe, row.id)
    path = drafts.pop(row.id, None)
    path = path if path is not None and path.exists() else new_text(begun)
    with app.suspend():
        text = edit(path, begun)
    try:
        settings = changed(recipe, text=text, file=path.name)
    except WorkbenchError as wrong:
        drafts[row.id] = path
        hint = f"c and ctrl+o open your text again; it is in {path}"
        raise RecipeError(wrong.what, hint=hint) from wrong
    path.unlink(missing_ok=True)
    if text == begun:
        raise UsageError("nothing was changed, so nothing was cloned")
    return settings
