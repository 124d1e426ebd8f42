"""`workbench recipes`: listing, showing and copying what ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from workbench.recipe import find_recipe


def test_recipes_lists_what_ships(workbench: Workbench) -> None:
    rows = workbench("recipes", "--json").data
    assert rows == workbench("recipes", "ls", "--json").data
    assert "demo" in [row["name"] for row in rows]
    assert set(rows[0]) == {"name", "about", "path"}
    assert "demo  " in workbench("recipes").out


def test_a_shipped_recipe_is_shown_as_it_stands(workbench: Workbench) -> None:
    said = workbench("recipes", "show", "demo")
    assert said.out == find_recipe("demo").read_text()
    assert workbench("recipes", "show", "demo", "--json").data["name"] == "demo"


def test_an_unknown_shipped_recipe_names_the_nearest(workbench: Workbench) -> None:
    said = workbench("recipes", "show", "dmeo")
    assert (said.code, said.out) == (3, "")
    assert "did you mean demo?" in said.err


def test_a_copy_is_made_once(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert workbench("recipes", "copy", "demo").out == "demo.yaml\n"
    assert (tmp_path / "demo.yaml").read_text() == find_recipe("demo").read_text()
    again = workbench("recipes", "copy", "demo")
    assert again.code == 2
    assert "exists already" in again.err
    assert workbench("recipes", "copy", "demo", "mine.yaml").code == 0
    assert workbench("recipes", "copy", "demo", tmp_path / "no" / "a.yaml").code == 3


def test_a_recipe_here_goes_before_the_shipped_one_of_its_name(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = find_recipe("demo").read_text().replace("name: demo", "name: mine", 1)
    (tmp_path / "demo.yaml").write_text(text)
    said = workbench("plan", "demo", "--card", "3090", "--json")
    assert said.data["recipe"] == "mine"
    assert "using demo.yaml, not the shipped recipe" in said.err
