"""Find the recipes that ship with the workbench, and the small model and data of the demo."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbench.errors import NotThere
from workbench.text import safe_line

SHIPPED = "workbench:"
"""Prefix of names that refer to files of this package, e.g. `workbench:demo/data/train.jsonl`."""

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedRecipe:
    """A recipe that ships with the workbench, as `workbench recipes` lists it."""

    name: str
    """The file's name without `.yaml`."""
    about: str
    """The first sentence of its leading comment."""
    path: Path


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: inside an installed wheel, or beside the package
    in a source tree."""
    installed = PACKAGE / "_recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "recipes"


def list_recipes() -> list[ShippedRecipe]:
    """Return every shipped recipe, sorted by name."""
    return [
        ShippedRecipe(name=path.stem, about=_about(path), path=path)
        for path in sorted(recipes_folder().glob("*.yaml"))
    ]


def shipped_recipe(name: str) -> Path | None:
    """Return the shipped recipe of that name, with or without `.yaml`; None where none ships."""
    stem = name.removesuffix(".yaml")
    return next((path for path in recipes_folder().glob("*.yaml") if path.stem == stem), None)


def find_recipe(name: str) -> Path:
    """Return the file that `name` refers to: a path, or the name of a shipped recipe.

    An existing file takes precedence, with `.yaml` left out too. Raises NotThere with the most
    similar name as its hint.
    """
    # expanduser raises for an unknown user after `~`, which is a missing file and no crash.
    here = Path(name).expanduser() if "\0" not in name and name[:1] != "~" else _home_path(name)
    if here is not None and _is_there(here) and here.is_file():
        return here
    if here is not None and here.name and _is_there(here.with_name(f"{here.name}.yaml")):
        return here.with_name(f"{here.name}.yaml")
    if (shipped := shipped_recipe(name)) is not None:
        return shipped
    names = [recipe.name for recipe in list_recipes()]
    near = difflib.get_close_matches(name, names, n=1)
    raise NotThere(
        f"there is no recipe {safe_line(name, 200)}",
        hint=f"did you mean {near[0]}?" if near else f"give a file, or one of {', '.join(names)}",
    )


def shipped_file(name: str) -> Path:
    """Return the file or folder behind a `workbench:` name.

    Raises NotThere if it does not exist, or if the name leads outside the package.
    """
    inside = PurePosixPath(name.removeprefix(SHIPPED))
    path = PACKAGE.joinpath(inside)
    # A recipe may come from a stranger: it must not name files outside the package.
    unfit = inside.is_absolute() or ".." in inside.parts or "\0" in name
    if unfit or not inside.parts or not _is_there(path):
        raise NotThere(
            f"{safe_line(name, 120)} does not ship with the workbench",
            hint=f"names that ship: {SHIPPED}demo/model, {SHIPPED}demo/data/train.jsonl",
        )
    return path


def _is_there(path: Path) -> bool:
    """Return whether the path exists; a name that is too long for any file system does not."""
    try:
        return path.exists()
    except OSError:
        return False


def _home_path(name: str) -> Path | None:
    try:
        return Path(name).expanduser()
    except (RuntimeError, ValueError):
        return None


def _about(path: Path) -> str:
    """Return the first sentence of the comment at the top of a file."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").strip())
        if not words[-1] or words[-1].endswith("."):
            break
    return safe_line(" ".join(words).removesuffix("."))
