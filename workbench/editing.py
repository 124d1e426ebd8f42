"""Settings changed by a person: words or an edited file to what differs, typed and checked.

The names of local files among them are relative to where the person stands.
"""

from __future__ import annotations

import json
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


def as_text(recipe: Recipe) -> str:
    """For an editor."""
    return to_yaml(recipe)


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
            mend="submit a recipe with it: workbench run RECIPE",
        )
    return settings_of(new, than=recipe)
