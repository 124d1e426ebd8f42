"""`workbench recipes` and `workbench schema`: the shipped recipes, and the JSON schema of one."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.tables import as_json, print_answer, terminal_width
from workbench.errors import NotThere, UsageError
from workbench.text import safe_line

app = typer.Typer(help="List, show or copy the recipes that ship.")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="Its name, as `recipes ls` shows it.")]


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
    dest: Annotated[Path | None, typer.Argument(help="File or folder.")] = None,
) -> None:
    """Copy a shipped recipe here, to edit it."""
    source = _shipped(name)
    target = dest if dest is not None else Path(source.name)
    target = target / source.name if target.is_dir() else target
    if not target.parent.is_dir():
        raise NotThere(
            f"there is no folder {target.parent}", hint=f"create it: mkdir -p {target.parent}"
        )
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError as taken:
        raise UsageError(f"{target} exists already", hint="name another file") from taken
    print_answer(f"{safe_line(target)}")


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
