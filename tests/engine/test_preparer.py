"""Experiments that wait together are prepared by one child, whose start takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked import run_forked
from tests.support.waiting import wait_for
from workbench.home import Home
from workbench.recipe import find_recipe, load_recipe
from workbench.scheduler.children.preparer import MODULE, Preparer
from workbench.training import prepare

BATCH = "tests.support.batch_preparation"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home").make()
    for id in (1, 2, 3):
        home.experiment(id).mkdir(parents=True)
    return home


def prepare_all(home: Home) -> list[dict[str, Any]]:
    """Poll as the scheduler does: the oldest, with those behind it named."""
    preparer, found = Preparer(home, BATCH), []
    for id, others in ((1, [2, 3]), (2, [3]), (3, [])):
        poll = lambda id=id, others=others: preparer.poll(id, others)  # noqa: E731
        found.append(wait_for(poll, f"experiment {id} is prepared", 60))
    preparer.close()
    return [result for result in found if result is not None]


def test_one_child_prepares_all_that_wait(home: Home) -> None:
    assert len({result["pid"] for result in prepare_all(home)}) == 1


def test_a_child_that_is_killed_on_the_way_is_started_again(home: Home) -> None:
    (home.experiment(2) / "kill").touch()
    results = prepare_all(home)
    assert [result["ok"] for result in results] == [True] * 3
    assert results[0]["pid"] != results[1]["pid"]


def test_an_experiment_that_is_cancelled_leaves_the_others_to_a_new_child(home: Home) -> None:
    preparer = Preparer(home, BATCH)
    assert preparer.poll(1, [2, 3]) is None
    preparer.cancel(2)
    for id, others in ((1, [3]), (3, list[int]())):
        poll = lambda id=id, others=others: preparer.poll(id, others)  # noqa: E731
        assert wait_for(poll, f"experiment {id} is prepared")
    preparer.close()


def test_of_experiments_on_the_same_data_all_but_the_first_only_look_the_rows_up(
    home: Home,
) -> None:
    words = prepare_all(home)[0]["words"]
    recipe = load_recipe(find_recipe("demo"), ["data.max_rows=40"]).model_dump_json()
    for id in (1, 2, 3):
        (home.experiment(id) / "recipe.json").write_text(recipe)
    assert prepare.__name__ == MODULE
    ended = run_forked(lambda: prepare.main(words))
    assert ended.code == 0, ended.out
    files = [home.experiment(id) / "prepared.json" for id in (1, 2, 3)]
    first, second, third = (json.loads(file.read_text()) for file in files)
    assert first["ok"]
    assert first["data"] == second["data"] == third["data"]
    rows = [file for file in home.cache.rglob("*") if file.is_file()]
    assert rows
    assert max(file.stat().st_mtime_ns for file in rows) < files[0].stat().st_mtime_ns
