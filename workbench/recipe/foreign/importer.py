"""Recognise the trainer of a YAML file, and write our recipe for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import NotThere, RecipeError
from workbench.recipe import keys as our_keys
from workbench.recipe.dump import to_yaml
from workbench.recipe.foreign.axolotl import translate_axolotl
from workbench.recipe.foreign.data_sets import locate_files, settle_hub_settings
from workbench.recipe.foreign.llama_factory import translate_llama_factory
from workbench.recipe.foreign.recognise import trainer_of
from workbench.recipe.foreign.translation import NoCounterpart, Translation, shown_value
from workbench.recipe.foreign.trl import translate_trl
from workbench.recipe.reader import read_text
from workbench.recipe.schema import Recipe
from workbench.recipe.source import parse_yaml, recipe_error
from workbench.recipe.validate import recipe_problems, with_value
from workbench.text import safe_line, shell_word


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRecipe:
    """A recipe made of another trainer's file."""

    trainer: str
    """TRL, Axolotl or LLaMA-Factory."""
    recipe: Recipe
    left: dict[str, str]
    """Keys of the file that have no counterpart, each with the reason."""

    def to_yaml(self) -> str:
        """Return the recipe's text, with the keys that were left out as comments."""
        lines = [f"# From a file of {self.trainer}, by `workbench recipes import`."]
        if self.left:
            lines.append("# These keys of it have no counterpart:")
            lines += [f"#   {key}: {why}" for key, why in self.left.items()]
        return "\n".join([*lines, "", to_yaml(self.recipe)])


def import_recipe(path: Path) -> ImportedRecipe:
    """Return our recipe for the file of another trainer.

    A key that is left out gets that trainer's default, so that the same is trained. Local data
    files that exist become absolute. Raises NotThere without the file, and RecipeError for a file
    that is not YAML, of no known trainer, or of a task other than supervised LoRA fine-tuning.
    """
    file = safe_line(path, 200)
    found = _translate(_read_keys(path, file), path.absolute().parent, file)
    locate_files(found.settings, path.absolute().parent)
    settle_hub_settings(found)
    _leave_what_is_of_one(found)
    name = path.stem[:80] or "imported"
    data: dict[str, Any] = {"name": safe_line(name, 80)}
    for key, value in found.settings.items():
        data = with_value(data, our_keys.split_key(key), value)
    recipe = _keep_last_without_curve(_valid_recipe(data, found, file), found)
    return ImportedRecipe(trainer=found.trainer, recipe=recipe, left=found.left)


def _read_keys(path: Path, file: str) -> dict[str, Any]:
    try:
        source = parse_yaml(read_text(path), file)
    except FileNotFoundError as gone:
        raise NotThere(f"there is no file {file}", hint="name a YAML file") from gone
    if source.mistakes:
        raise recipe_error(source.mistakes)
    if not isinstance(source.data, dict):
        raise RecipeError(f"{file}: holds no settings", hint="name a trainer's YAML file")
    return {str(key): value for key, value in source.data.items()}


def _translate(keys: Mapping[str, Any], folder: Path, file: str) -> Translation:
    try:
        trainer = trainer_of(keys)
        if trainer == "Axolotl":
            return translate_axolotl(keys)
        if trainer == "LLaMA-Factory":
            return translate_llama_factory(keys, folder)
        if trainer == "TRL":
            return translate_trl(keys)
    except NoCounterpart as refused:
        raise RecipeError(
            f"{file}: {refused}",
            hint="the workbench fine-tunes LoRA adapters on given answers, and nothing else",
        ) from refused
    if "model" in keys and "data" in keys:
        hint = f"it may be a recipe already: workbench check {shell_word(file)}"
    else:
        hint = "TRL, Axolotl and LLaMA-Factory are known, by their keys for the base model"
    raise RecipeError(f"{file}: is of no known trainer", hint=hint)


def _leave_what_is_of_one(found: Translation) -> None:
    """Leave settings that belong to a single data set where there are several."""
    if not isinstance(found.settings.get("data.train"), list):
        return
    names = [
        key for key in _OF_ONE if key != "data.eval_split" or "data.eval" not in found.settings
    ]
    for key in names:
        if (value := found.settings.pop(key, None)) is not None:
            found.left[key] = f"{safe_line(value, 60)} is of one data set: {_OF_ONE[key]}"


_OF_ONE = {
    "data.split": "give each source of data.train its split",
    "data.revision": "give each source of data.train its revision",
    "data.config": "give each source of data.train its config",
    "data.max_rows": "give each source of data.train its rows, which it has in an epoch",
    "data.eval_split": "name the held-out rows by data.eval, and their split by data.eval_split; "
    "without data.eval, data.eval_rows rows are held out of data.train",
}
"""Settings of a single data set, and what takes their place beside a list of several."""


def _keep_last_without_curve(recipe: Recipe, found: Translation) -> Recipe:
    """Return the recipe, with the last weights kept where no evaluations show the best ones."""
    if recipe.train.keep == "last" or recipe.evaluate.every is not None:
        return recipe
    found.left["load_best_model_at_end"] = (
        "true is train.keep: best, which needs evaluate.every, the optimizer steps between "
        "evaluations: the last weights are kept"
    )
    train = recipe.train.model_copy(update={"keep": "last"})
    return recipe.model_copy(update={"train": train})


def _valid_recipe(data: dict[str, Any], found: Translation, file: str) -> Recipe:
    """Return the recipe; values that it refuses are left, and the trainer's defaults are used."""
    for _ in range(2 * len(found.settings) + 1):
        problems = recipe_problems(data)
        if not problems:
            return Recipe.model_validate(data)
        path, why = problems[0]
        key = ".".join(str(part) for part in path[:2])
        if key not in found.settings:
            break
        value = found.settings.pop(key)
        found.left[key] = f"{safe_line(value, 60)} is refused: {why}"
        section, _, name = key.partition(".")
        del data[section][name]
        if (usual := found.defaults.get(key, value)) != value:
            found.left[key] += f"; {shown_value(usual)} is used"
            found.settings[key] = data[section][name] = usual
    raise RecipeError(
        f"{file}: no recipe can be made of it: {problems[0][1]}",
        hint="it has to name a base model and training data",
    )
