"""A trial is run again exactly, and the differences between both runs are told."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.tick_contexts import Bench, recipe
from tests.support.waiting import wait_for
from workbench.library.reproduction import changed_versions, compare_runs
from workbench.service import Service
from workbench.store.rows import Point
from workbench.trial import State


def test_a_trial_is_run_again_and_compared(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    sweep = "{parameters: {train.learning_rate: [0.1, 0.05]}}"
    workbench("run", recipe_file(tmp_path, sweep=sweep), "--watch")
    first = workbench("reproduce", "3", "--json").data
    assert first["name"] == "tiny-again-3"
    service = Service(engine.home)
    (again,) = wait_for(
        lambda: [one.id for one in service.trials(2) if one.kind == "tune"], "it is queued"
    )
    wait_for(lambda: service.trial(again).trial.state is State.DONE, "it is run again")
    settings = service.experiment(2).recipe["train"]
    assert settings["learning_rate"] == service.trial(3).trial.settings["train.learning_rate"]
    result = workbench("reproduce", "3", "--json").data
    assert (result["exact"], result["again"], result["same_rows"]) == (True, again, True)
    assert result["score_differences"]["exact_match"] == 0.0
    assert "to the last digit" in workbench("reproduce", "3").out


def test_a_base_and_an_unfinished_trial_are_not_reproduced(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path), "--watch")
    assert workbench("reproduce", "1").code == 2


def test_a_reproduction_that_was_refused_says_how_to_ask_again(
    bench: Bench, workbench: Workbench
) -> None:
    bench.submit(recipe())
    bench.until(State.DONE, 2)
    again = bench.submit(recipe(name="tiny-again-2"))
    bench.store.mark_refused(again, "its model is gone", "put it back")
    said = workbench("reproduce", "2")
    assert said.code == 1
    assert "error: tiny-again-2 did not train: its model is gone" in said.err
    assert "put it back. Then workbench rm tiny-again-2, and this command again" in said.err


def test_other_versions_are_named(engine: Engine, workbench: Workbench, tmp_path: Path) -> None:
    workbench("run", recipe_file(tmp_path), "--watch")
    scores = engine.home.trial(2) / "adapter" / "scores.json"
    scores.write_text(json.dumps({"versions": {"torch": "1.0", "workbench": "0"}}))
    said = workbench("reproduce", "2")
    assert (said.code, "torch 1.0, now" in said.err) == (2, True)
    assert "pip install torch==1.0" in said.err
    assert workbench("reproduce", "2", "--anyway").code == 0


def test_differences_of_losses_scores_and_rows_are_told(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path), "--watch")
    experiment = Service(engine.home).experiment(1)
    one = [Point(step=step, low=1.0, high=1.0) for step in (1, 2, 3)]
    other = [Point(step=step, low=1.0 + step / 8, high=1.0) for step in (2, 3, 4)]
    found = compare_runs(
        (2, experiment, one, {"loss": 0.5}), (9, experiment, other, {"loss": 0.75})
    )
    assert (found.steps, found.max_loss_difference) == (2, 0.375)
    assert (found.score_differences, found.is_exact) == ({"loss": 0.25}, False)
    assert changed_versions(tmp_path, {"torch": "2"}) == {}
