"""Read a recipe from its file and report all mistakes at once, each with file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import NotThere, RecipeError
from workbench.recipe import keys
from workbench.recipe.foreign.recognise import trainer_instead_of_recipe
from workbench.recipe.names import resolve_names
from workbench.recipe.overrides import apply_overrides
from workbench.recipe.schema import Recipe
from workbench.recipe.source import MAX_BYTES, Mistake, Place, YamlSource, parse_yaml, recipe_error
from workbench.recipe.validate import recipe_problems, validate_recipe, with_value
from workbench.text import safe_line, shell_word


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load the recipe in `path` with `overrides` (such as `lora.rank=8`) applied.

    Local names in the recipe become absolute paths. Raises NotThere if there is no such file, and
    RecipeError with one line per mistake.
    """
    file = safe_line(path, 200)
    try:
        text = read_text(path)
    except FileNotFoundError as gone:
        hint = "`workbench recipes` lists those that ship"
        raise NotThere(f"there is no recipe {file}", hint=hint) from gone
    return read_recipe(text, file=file, folder=path.absolute().parent, overrides=overrides)


def read_text(path: Path) -> str:
    """Return the text of a YAML file, of which MAX_BYTES and one byte are read.

    Raises FileNotFoundError without the file, and RecipeError where it cannot be read as UTF-8.
    """
    file = safe_line(path, 200)
    try:
        with path.open("rb") as opened:
            # One byte more than the limit is enough to know that the file is too large.
            content = opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as refused:
        why = getattr(refused, "strerror", None) or refused
        raise RecipeError(f"{file}: cannot be read: {why}") from refused
    try:
        # Windows editors put a byte order mark first; utf-8-sig drops it.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        line = content.count(b"\n", 0, broken.start) + 1
        place = Place(line, f"{file}:{line}")
        raise recipe_error(
            [Mistake(place, "is not UTF-8 text")], "save the file as UTF-8"
        ) from broken


def read_recipe(
    text: str, *, file: str = "recipe.yaml", folder: Path, overrides: Sequence[str] = ()
) -> Recipe:
    """Read the recipe in `text`; local names in it are relative to `folder`.

    `file` is the name shown in messages. Raises RecipeError with one line per mistake.
    """
    source = parse_yaml(text, file)
    _refuse_foreign(source)
    apply_overrides(source, overrides)
    if not isinstance(source.data, dict):
        found = "is empty" if source.data is None else "is a list or a word, not settings"
        raise recipe_error([*source.mistakes, Mistake(source.place(()), f"the recipe {found}")])
    _tidy(source)
    resolve_names(source, folder)
    recipe = validate_recipe(source)
    if source.mistakes or recipe is None:
        raise recipe_error(source.mistakes)
    return recipe


def _refuse_foreign(source: YamlSource) -> None:
    """Raise RecipeError for the file of another trainer, in place of a line for each key."""
    if not isinstance(source.data, dict):
        return
    if trainer := trainer_instead_of_recipe(source.data):
        raise RecipeError(
            f"{source.file}: looks like a file of {trainer}, not like a recipe",
            hint="make a recipe of it: workbench recipes import "
            f"{shell_word(source.file)} -o NEW.yaml",
        )


def apply_settings(recipe: Recipe, settings: Mapping[str, object]) -> Recipe:
    """Return the recipe of one trial: `settings` applied to `recipe`, without its sweep.

    Raises RecipeError if a setting is unknown or its value is not accepted.
    """
    data: dict[str, Any] = {**recipe.model_dump(), "sweep": None}
    wrong = [
        keys.unknown_key(key, safe_line(key, 80))
        for key in settings
        if key not in keys.setting_fields()
    ]
    for key, value in settings.items():
        data = with_value(data, keys.split_key(key), value)
    # Unknown keys would repeat themselves as pydantic errors, so they end here.
    if wrong:
        raise RecipeError("\n".join(wrong), hint="settings are dotted recipe keys: lora.rank")
    if refused := [what for _, what in recipe_problems(data)]:
        raise RecipeError("\n".join(refused), hint="correct the settings named and try again")
    return Recipe.model_validate(data)


def settings_of(recipe: Recipe, than: Recipe | None = None) -> dict[str, object]:
    """Return every setting by its dotted key, without the sweep's.

    With `than`, return only the settings that differ from it.
    """
    mine = _flat(recipe)
    theirs = _flat(than) if than is not None else {}
    return {key: value for key, value in mine.items() if than is None or theirs[key] != value}


def _flat(recipe: Recipe) -> dict[str, object]:
    data = recipe.model_dump()
    flat: dict[str, object] = {}
    for key in keys.setting_fields():
        section, _, name = key.partition(".")
        if section != "sweep":
            flat[key] = data[section][name] if name else data[section]
    return flat


def _tidy(source: YamlSource) -> None:
    """Replace empty sections by their defaults, and restore the original text of text settings.

    YAML reads `revision: 1234567` as a number; the setting accepts text, so the text counts.
    """
    for section in keys.section_models():
        if section != "sweep" and section in source.data and source.data[section] is None:
            source.data[section] = {}
    for path, text in source.written.items():
        key = ".".join(str(part) for part in path)
        if path[:2] == ("sweep", "parameters") and len(path) >= 4:
            key = str(path[4]) if path[3] == "when" and len(path) > 4 else str(path[2])
        if keys.takes_text(key):
            _as_text(source.data, path, text)
    name = source.data.get("name")
    if isinstance(name, str) and safe_line(name) != name:
        source.wrong(("name",), "name holds characters that cannot be shown on one line")


def _as_text(data: Any, path: tuple[str | int, ...], text: str) -> None:
    for part in path[:-1]:
        data = data[part]
    if data[path[-1]] is not None:
        data[path[-1]] = text
