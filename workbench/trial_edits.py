"""Settings changed by a person: words or an edited file to what differs, typed and checked.

The names of local files among them are relative to where the person stands.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.recipe import Recipe, apply_settings, read_recipe, settings_of, to_yaml
from workbench.store.rows import Experiment


def as_recipe(experiment: Experiment, settings: Mapping[str, object]) -> Recipe:
    """The recipe of one of its trials, as a person would have written it."""
    whole = Recipe.model_validate_json(json.dumps({**experiment.recipe, "sweep": None}))
    return apply_settings(whole, settings)


def as_text(recipe: Recipe, trial: int) -> str:
    """For an editor."""
    return (
        f"# Trial {trial} as a recipe. Change what should differ in its clone, save, and leave;\n"
        f"# unchanged, or left with an error (vim: :cq), nothing is cloned.\n{to_yaml(recipe)}"
    )


def new_text(text: str) -> Path:
    """A file of one's own that holds it."""
    handle, name = tempfile.mkstemp(prefix="workbench-clone-", suffix=".yaml")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return Path(name)


def edit(path: Path, begun: str) -> str:
    """Its text, once a person has left $VISUAL or $EDITOR. UsageError when that fails: the file is
    gone then, unless something else than `begun` stands in it."""
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


def changed(
    recipe: Recipe, words: Sequence[str] = (), text: str | None = None, file: str = "recipe.yaml"
) -> dict[str, Any]:
    """What `words` (`lora.rank=32`), or an edited text, change in `recipe`: dotted keys and values.

    RecipeError with every mistake; UsageError for a sweep, which is no setting of one trial.
    """
    written = to_yaml(recipe) if text is None else text
    new = read_recipe(written, file=file, folder=Path.cwd(), overrides=words)
    if new.sweep is not None:
        raise UsageError(
            "a sweep makes many trials, and this is one",
            hint="submit a recipe with it: workbench run RECIPE",
        )
    return settings_of(new, than=recipe)
