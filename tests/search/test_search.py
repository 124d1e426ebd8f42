"""The next point of a sweep is a pure function of the sweep and its history."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tick_contexts import recipe
from workbench.recipe import Recipe
from workbench.search import PastTrial, initial_points, next_point

SPACE = {
    "train.learning_rate": {"min": 1e-5, "max": 1e-1, "log": True},
    "lora.rank": {"min": 4, "max": 64, "log": True, "integer": True},
    "train.schedule": ["constant", "linear", "cosine"],
}
CONDITIONAL = {
    "lora.rslora": [True, False],
    "lora.alpha": {"min": 1, "max": 64, "when": {"lora.rslora": True}},
    "train.schedule": {"values": ["linear", "cosine"], "when": {"lora.rslora": [False]}},
}


def tpe(parameters: dict[str, Any] = SPACE, **more: Any) -> Recipe:
    return recipe(sweep={"method": "tpe", "trials": 40, "parameters": parameters, **more})


def scored(number: int, settings: dict[str, Any], score: float) -> PastTrial:
    return PastTrial(number=number, settings=settings, fate="scored", score=score)


def search(
    wanted: Recipe, trials: int, score: Callable[[dict[str, Any]], float]
) -> list[PastTrial]:
    """Run trials one after another and return the history."""
    history: list[PastTrial] = []
    for number in range(1, trials + 1):
        point = next_point(wanted, number, history)
        assert point is not None
        history.append(scored(number, point, score(point)))
    return history


def near_a_hundredth(point: dict[str, Any]) -> float:
    """Return an exact match that is best at a learning rate of 1e-2."""
    import math

    return 1.0 - abs(math.log10(point["train.learning_rate"]) + 2) / 4


def test_the_same_history_gives_the_same_point_in_another_process() -> None:
    history = search(tpe(), 12, near_a_hundredth)
    here = next_point(tpe(), 13, history)
    again = next_point(tpe(), 13, list(reversed(history)))
    code = (
        "from tests.search.test_search import *\n"
        "print(next_point(tpe(), 13, search(tpe(), 12, near_a_hundredth)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert here == again
    assert there.stdout.strip() == str(here)


def test_rebuilt_samplers_do_not_repeat_their_first_point() -> None:
    first = [next_point(tpe(), number, []) for number in range(1, 9)]
    assert len({str(point) for point in first}) == 8


def test_tpe_proposes_points_near_good_trials() -> None:
    history = search(tpe(), 30, near_a_hundredth)
    late = [one.score or 0.0 for one in history[20:]]
    early = [one.score or 0.0 for one in history[:10]]
    assert sum(late) / 10 > sum(early) / 10 + 0.1
    assert max(late) > 0.95


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_up_is_better_or_down_as_the_recipe_says(direction: str, sign: int) -> None:
    sweep = tpe(objective="loss", direction=direction)
    history = search(sweep, 30, lambda point: sign * near_a_hundredth(point))
    rates = [near_a_hundredth(one.settings) for one in history[20:]]
    assert sum(rates) / 10 > 0.8


def test_trials_that_still_run_keep_the_next_one_away() -> None:
    """Without the constant liar, all points would be drawn next to the best one."""
    history = search(tpe(), 20, near_a_hundredth)
    for number in range(21, 27):
        point = next_point(tpe(), number, history)
        assert point is not None
        history.append(PastTrial(number=number, settings=point, fate="running"))
    assert len({str(one.settings) for one in history[20:]}) == 6


def test_what_was_ended_early_counts_as_worse_than_what_finished() -> None:
    """All trials with a high rate ended early, so the search avoids high rates."""
    history = []
    for number in range(1, 25):
        rate = 10 ** (-5 + number / 6)
        settings = {"train.learning_rate": rate, "lora.rank": 8, "train.schedule": "linear"}
        if rate > 1e-3:
            cut = PastTrial(
                number=number, settings=settings, fate="ended_early", step=2, eval_loss=9.0
            )
            history.append(cut)
        else:
            history.append(scored(number, settings, rate))
    drawn = [next_point(tpe(), number, history) for number in range(25, 45)]
    low = [point for point in drawn if point and point["train.learning_rate"] < 3e-3]
    assert len(low) >= 15


def test_an_uninformative_trial_changes_nothing() -> None:
    history = search(tpe(), 12, near_a_hundredth)
    settings = {"train.learning_rate": 1e-2, "lora.rank": 8, "train.schedule": "linear"}
    void = PastTrial(number=13, settings=settings, fate="uninformative")
    assert next_point(tpe(), 14, [*history, void]) == next_point(tpe(), 14, history)


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_parameter_exists_only_where_its_condition_holds(method: str) -> None:
    wanted = recipe(sweep={"method": method, "trials": 30, "parameters": CONDITIONAL})
    history = search(wanted, 30, lambda point: point.get("lora.alpha", 0) / 64)
    for one in history:
        with_alpha = one.settings["lora.rslora"] is True
        assert ("lora.alpha" in one.settings) is with_alpha
        assert ("train.schedule" in one.settings) is not with_alpha
    assert {one.settings["lora.rslora"] for one in history} == {True, False}


def test_a_grid_leaves_out_what_does_not_exist() -> None:
    lists = {
        "train.schedule": {"values": ["linear", "cosine"], "when": {"lora.rslora": True}},
        "lora.rslora": [True, False],
        "lora.rank": [4, 8],
    }
    found = initial_points(recipe(sweep={"parameters": lists}))
    assert len(found) == 2 * 2 + 2
    assert {"lora.rslora": False, "lora.rank": 8} in found
    assert {"lora.rslora": True, "train.schedule": "cosine", "lora.rank": 4} in found


def test_no_point_is_tried_twice_and_a_small_space_is_exhausted() -> None:
    small = {"lora.rank": [4, 8, 16], "train.schedule": ["linear", "cosine"]}
    wanted = tpe(small)
    history = search(wanted, 6, lambda point: float(point["lora.rank"]))
    assert len({str(one.settings) for one in history}) == 6
    assert next_point(wanted, 7, history) is None


def test_random_draws_of_lists_try_every_point_once() -> None:
    small = {"lora.rank": [4, 8], "train.schedule": ["linear", "cosine"]}
    for trials, different in ((3, 3), (4, 4), (9, 4)):
        points = initial_points(tpe(small, method="random", trials=trials))
        assert len(points) == len({str(point) for point in points}) == different
    assert points[:3] == initial_points(tpe(small, method="random", trials=3))
    whole = {"lora.rank": {"min": 4, "max": 6, "integer": True}}
    ranks = [point["lora.rank"] for point in initial_points(tpe(whole, method="random", trials=9))]
    assert sorted(ranks) == [4, 5, 6]


def test_an_edited_clone_outside_the_space_does_no_harm() -> None:
    history = search(tpe(), 12, near_a_hundredth)
    odd = {"train.learning_rate": 5.0, "lora.rank": 4096, "data.max_tokens": 9}
    assert next_point(tpe(), 14, [*history, scored(13, odd, 0.9)])


def test_draws_stay_within_their_range() -> None:
    ranges = {
        "lora.dropout": {"min": 0.0, "max": 0.99999},
        "lora.rank": {"min": 3.5, "max": 5.2, "integer": True},
    }
    for method in ("random", "tpe"):
        wanted = recipe(sweep={"method": method, "trials": 99, "parameters": ranges})
        history = search(wanted, 25, lambda point: point["lora.dropout"])
        assert {one.settings["lora.rank"] for one in history} <= {4, 5}
        assert all(0 <= one.settings["lora.dropout"] <= 0.99999 for one in history)
