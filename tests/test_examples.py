"""The examples: their recipes are valid, their data passes the data doctor, the script runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.home import Home
from workbench.recipe import load_recipe
from workbench.service import Service
from workbench.training.prepare import prepare_experiment

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
RECIPES = sorted(EXAMPLES.glob("*.yaml"))
SHAPES = {
    "alpaca": "alpaca",
    "completion": "prompt-completion",
    "messages": "messages",
    "sharegpt": "sharegpt",
    "text": "text",
}


def environment(folder: Path) -> dict[str, str]:
    cards = {"WORKBENCH_CARDS": "cpu:4GiB,cpu:4GiB", "WORKBENCH_HOME": str(folder / "home")}
    return {**os.environ, **cards}


def test_there_is_an_example_for_each_shape() -> None:
    assert {path.stem for path in RECIPES} == SHAPES.keys()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_the_data_doctor(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "recipe.json").write_text(load_recipe(path).model_dump_json())
    report = prepare_experiment(folder, tmp_path / "cache" / "data", lambda *_: None)
    assert report["data"]["shape"] == SHAPES[path.stem]
    assert report["notes"] == []


@pytest.mark.slow  # tests/cli/test_check.py has the command, the test before this one its recipe
def test_the_command_of_the_walk_through_checks_a_recipe(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "workbench", "check", "examples/messages.yaml", "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["data"]["shape"] == "messages"
    assert report["warnings"] == []


def test_the_walk_through_names_every_recipe_and_file_that_exist() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for path in (*RECIPES, *(EXAMPLES / "data").iterdir(), *EXAMPLES.glob("*.py")):
        assert path.name in text, path.name


@pytest.mark.slow
def test_the_script_finds_the_winner(tmp_path: Path) -> None:
    winner = tmp_path / "winner"
    try:
        ran = subprocess.run(
            [sys.executable, "examples/find_best.py", "examples/sharegpt.yaml", str(winner)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(tmp_path),
            timeout=600,
        )
        assert ran.returncode == 0, ran.stderr
        assert "rank" in ran.stdout
        assert (winner / "adapter_model.safetensors").exists()
    finally:
        service = Service(Home(tmp_path / "home"))
        service.stop_engine()
        service.wait_for_engine(running=False, timeout_s=120)
