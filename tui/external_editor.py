"""Editing a trial's recipe in the user's own editor, to clone it with changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App

from workbench.errors import RecipeError, UsageError, WorkbenchError
from workbench.service import Experiment, TrialRow


def edit_settings(
    app: App[Any], row: TrialRow, experiment: Experiment, drafts: dict[int, Path]
) -> dict[str, Any]:
    """Open the trial's recipe in $VISUAL or $EDITOR and return the settings that were changed.

    The screen is suspended meanwhile. Text with mistakes is kept in a file named in `drafts`, by
    trial, and opened again the next time, so that a typing error costs no work. Raises RecipeError
    for such text, UsageError where nothing was changed, and SuspendNotSupported where the terminal
    cannot be suspended.
    """
    # pydantic: 0.1 s of a start in which nobody clones
    from workbench.trial_edits import (
        changed_settings,
        editable_text,
        recipe_for_trial,
        run_editor,
        write_draft,
    )

    recipe = recipe_for_trial(experiment, row.settings)
    begun = editable_text(recipe, row.id)
    # A draft's file may have been removed since: then the text begins again.
    path = drafts.pop(row.id, None)
    path = path if path is not None and path.exists() else write_draft(begun)
    with app.suspend():
        text = run_editor(path, begun)
    try:
        settings = changed_settings(recipe, text=text, file=path.name)
    except WorkbenchError as wrong:
        drafts[row.id] = path
        hint = f"press c and ctrl+o to edit your text again; it is kept in {path}"
        raise RecipeError(wrong.what, hint=hint) from wrong
    path.unlink(missing_ok=True)
    if text == begun:
        raise UsageError("nothing was changed, so nothing was cloned")
    return settings
