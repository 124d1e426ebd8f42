"""`workbench recipes` and `workbench schema`: the shipped recipes, and the JSON schema of one."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.arguments import Json
from workbench.cli.tables import as_json, print_answer, print_note, terminal_width
from workbench.errors import NotThere, UsageError
from workbench.text import safe_line, shell_word
from workbench.text.quantities import plural

app = typer.Typer(
    help="List, show or copy the recipes that ship, or import one of another trainer."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as `recipes ls` shows it.")]


@app.callback(invoke_without_command=True)
def recipes_command(context: typer.Context, as_data: Json = False) -> None:
    """List, show or copy the recipes that ship."""
    if context.invoked_subcommand is None:
        _list(as_data)


@app.command("ls")
def list_recipes_command(as_data: Json = False) -> None:
    """List the shipped recipes."""
    _list(as_data)


def _list(as_data: bool) -> None:
    from workbench.recipe import list_recipes

    found = list_recipes()
    if as_data:
        as_json([{"name": one.name, "about": one.about, "path": str(one.path)} for one in found])
    else:
        margin = max(len(one.name) for one in found) + 2
        for one in found:
            about = textwrap.wrap(one.about, max(20, terminal_width() - margin))
            print_answer(f"{one.name:<{margin}}" + f"\n{'':<{margin}}".join(about))


@app.command("show")
def show_recipe_command(name: Name, as_data: Json = False) -> None:
    """Print a shipped recipe."""
    path = _shipped(name)
    if as_data:
        from workbench.recipe import load_recipe

        as_json(load_recipe(path).model_dump(mode="json"))
    else:
        print_answer(path.read_text(encoding="utf-8").rstrip("\n"))


@app.command("copy")
def copy_recipe_command(
    name: Name,
    dest: Annotated[Path | None, typer.Argument(metavar="DEST", help="File or folder.")] = None,
) -> None:
    """Copy a shipped recipe here, to edit it."""
    source = _shipped(name)
    target = dest if dest is not None else Path(source.name)
    target = target / source.name if target.is_dir() else target
    _write_new(target, source.read_bytes())
    print_answer(f"{safe_line(target)}")


@app.command("import")
def import_recipe_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A YAML file of TRL, Axolotl or LLaMA-Factory.")
    ],
    dest: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the recipe to this file.")
    ] = None,
    as_data: Json = False,
) -> None:
    """Make a recipe of another trainer's file; name each key that has no counterpart."""
    from workbench.recipe.foreign.importer import import_recipe

    found = import_recipe(file)
    if as_data:
        recipe = found.recipe.model_dump(mode="json")
        as_json({"trainer": found.trainer, "recipe": recipe, "left": found.left})
    elif dest is None:
        print_answer(found.to_yaml().rstrip("\n"))
    if dest is not None:
        _write_new(dest, found.to_yaml().encode())
    count = plural(len(found.left), "key")
    print_note(f"{found.trainer}: {count} without a counterpart{':' if found.left else ''}")
    for key, why in found.left.items():
        print_note(f"  {key}: {why}")
    if dest is not None:
        print_note(f"next: workbench check {shell_word(dest)}")


def _write_new(target: Path, content: bytes) -> None:
    """Write a file that does not exist yet; NotThere without its folder, UsageError if it does."""
    if not target.parent.is_dir():
        raise NotThere(
            f"there is no folder {safe_line(target.parent)}",
            hint=f"create it: mkdir -p {shell_word(target.parent)}",
        )
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError as taken:
        raise UsageError(f"{target} exists already", hint="name another file") from taken


def _shipped(name: str) -> Path:
    from workbench.recipe import find_recipe, shipped_recipe

    if (path := shipped_recipe(name)) is not None:
        return path
    find_recipe(name)  # raises with the nearest name, unless a file of this folder was named
    raise NotThere(
        f"{safe_line(name)} is not a shipped recipe",
        hint="`workbench recipes` lists those that ship",
    )


def schema_command() -> None:
    """Print the recipe's JSON schema, for editors."""
    from workbench.recipe import recipe_json_schema

    as_json(recipe_json_schema())
