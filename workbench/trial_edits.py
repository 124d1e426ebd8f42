"""Settings of a trial that a person changes, by `KEY=VALUE` or in an editor, checked by the schema.

Local names in changed settings are relative to the working directory.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.adapters.evaluation_recipe import ALL_ROWS, evaluation_recipe
from workbench.errors import RecipeError, UsageError
from workbench.recipe import Recipe, apply_settings, read_recipe, settings_of, to_yaml
from workbench.store.rows import Experiment, TrialRow
from workbench.store.score_trials import check_it_trains


def recipe_for_trial(experiment: Experiment, settings: Mapping[str, object]) -> Recipe:
    """Return the recipe of a trial with these `settings`, without the experiment's sweep."""
    # Through JSON, because the stored recipe is plain JSON and the schema is strict about types.
    whole = Recipe.model_validate_json(json.dumps({**experiment.recipe, "sweep": None}))
    return apply_settings(whole, settings)


def tuned_recipe(experiment: Experiment, trial: TrialRow) -> Recipe:
    """Return the recipe of a trial that trains; UsageError for one that only scores or chats."""
    check_it_trains(trial)
    return recipe_for_trial(experiment, trial.settings)


def trial_recipe(experiment: Experiment, trial: TrialRow) -> Recipe:
    """Return the recipe of a trial, without settings that name what a score trial scores."""
    mine = {key: value for key, value in trial.settings.items() if not key.startswith("score.")}
    return recipe_for_trial(experiment, mine)


def scoring_recipe(
    source: Recipe,
    data: str,
    name: str,
    *,
    rows: int | None = None,
    resolved: Mapping[str, object] | None = None,
    words: Sequence[str] = (),
    changes: Mapping[str, object] | None = None,
) -> Recipe:
    """Return the recipe that scores adapters of `source` on the rows that `data` names.

    `words` are changes as `KEY=VALUE`, and `changes` by key, which win. For the others see
    `evaluation_recipe`. Raises RecipeError and UsageError for changes that are not accepted.
    """
    # Settings are read against files that are here: the training file may be gone by now.
    # The number of rows is compared with what an evaluation has without one, so that a number that
    # happens to be the trials' own is a change.
    usual = {"data.train": data, "data.eval": data, "data.eval_rows": rows or ALL_ROWS}
    here = apply_settings(source, usual)
    return evaluation_recipe(
        source,
        data,
        name=name,
        rows=rows,
        resolved=resolved,
        settings={**changed_settings(here, words), **(changes or {})},
    )


def editable_text(recipe: Recipe, trial: int) -> str:
    """Return the recipe as text for an editor, with a comment that says what will happen."""
    return (
        f"# Trial {trial} as a recipe. Change what should differ in its clone, save, and leave;\n"
        f"# unchanged, or left with an error (vim: :cq), nothing is cloned.\n{to_yaml(recipe)}"
    )


def write_draft(text: str) -> Path:
    """Write `text` to a new temporary file that only this user can read."""
    handle, name = tempfile.mkstemp(prefix="workbench-clone-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def run_editor(path: Path, begun: str) -> str:
    """Open the file in $VISUAL or $EDITOR, wait for the editor, and return the file's text.

    Raises UsageError if the editor fails. The file is then deleted if its text is still `begun`;
    otherwise it stays, and the hint says where.
    """
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    try:
        code = subprocess.run([*words, str(path)], check=False).returncode
        wrong, hint = f"the editor ended with {code}; nothing was cloned", ""
    except OSError as missing:
        code, wrong = 1, f"the editor {words[0]} cannot be run: {missing.strerror}"
        hint = "set EDITOR, or give the changes with -s KEY=VALUE"
    text = path.read_text(encoding="utf-8", errors="replace")
    if code:
        if text == begun:
            path.unlink()
        raise UsageError(wrong, hint=hint if text == begun else f"your text is in {path}")
    return text


_LINE = re.compile(r"^unwritten:\d+: ", re.MULTILINE)


def _overridden(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """Return the recipe with changes as `KEY=VALUE`; its mistakes name no line of a file."""
    try:
        return read_recipe(to_yaml(recipe), file="unwritten", folder=Path.cwd(), overrides=words)
    except RecipeError as refused:
        hint = refused.hint.replace("the lines named", "the settings named")
        raise RecipeError(_LINE.sub("", refused.what), hint=hint) from refused


def changed_settings(
    recipe: Recipe, words: Sequence[str] = (), text: str | None = None, file: str = "recipe.yaml"
) -> dict[str, Any]:
    """Return the settings that differ from `recipe`, by dotted key.

    The changes come from `words` such as `lora.rank=32`, from an edited text, or both. Raises
    RecipeError with every mistake, and UsageError if the text has a sweep, because a sweep makes
    many trials.
    """
    if text is None:
        new = _overridden(recipe, words)
    else:
        new = read_recipe(text, file=file, folder=Path.cwd(), overrides=words)
    if new.sweep is not None:
        raise UsageError(
            "a sweep makes many trials, and this is one",
            hint="submit a recipe with it: workbench run RECIPE",
        )
    return settings_of(new, than=recipe)
