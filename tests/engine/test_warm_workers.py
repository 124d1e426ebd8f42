"""Workers that are started while an experiment is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.scheduler import place
from workbench.scheduler.tick_context import HELD

GRID = {"lora.rank": [4, 8]}
SPACE = {"train.learning_rate": {"min": 1e-4, "max": 1e-3}}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Four cards, of which cpu-3 is the smallest."""
    sizes = [16.0, 16.0, 16.0, 8.0]
    return make_bench(tmp_path, [cpu_card(index, gib) for index, gib in enumerate(sizes)])


def _prepare(bench: Bench, **changes: Any) -> int:
    """Add an experiment that is being prepared, and return its id."""
    wanted = recipe(**changes)
    return bench.store.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)


def _warm(bench: Bench) -> list[str]:
    place(bench.context)
    bench.context.refresh()
    return sorted(bench.context.reports)


@pytest.mark.parametrize(
    ("changes", "cards"),
    [
        ({}, ["cpu-0", "cpu-3"]),  # the base's score and the trial
        ({"sweep": {"parameters": GRID}}, ["cpu-0", "cpu-1", "cpu-3"]),
        ({"sweep": {"parameters": GRID, "max_parallel": 1}}, ["cpu-3"]),
        (
            {"sweep": {"parameters": SPACE, "method": "random", "hours": 1.0}},
            ["cpu-0", "cpu-1", "cpu-2", "cpu-3"],
        ),
    ],
    ids=["one trial", "a grid", "one at a time", "as many as there are cards"],
)
def test_as_many_workers_start_as_the_trials_can_use(
    bench: Bench, changes: dict[str, Any], cards: list[str]
) -> None:
    assert _warm(bench) == []
    _prepare(bench, **changes)
    assert _warm(bench) == cards


def test_a_prepared_experiment_warms_nothing(bench: Bench) -> None:
    bench.context.store.update_row("experiments", bench.submit(recipe()), held=1)
    assert _warm(bench) == []


def test_a_held_queue_or_experiment_warms_nothing(bench: Bench) -> None:
    bench.store.set_fact(HELD, "1")
    experiment = _prepare(bench)
    assert _warm(bench) == []
    bench.store.set_fact(HELD, "")
    bench.store.steer_experiment(experiment, held=1)
    assert _warm(bench) == []
    bench.store.steer_experiment(experiment, held=0)
    assert _warm(bench) != []


def test_a_drained_card_is_left_alone(bench: Bench) -> None:
    bench.store.db.execute("update cards set drained = 1 where uuid = 'cpu-3'")
    bench.context.refresh()
    _prepare(bench)
    assert _warm(bench) == ["cpu-0", "cpu-1"]


def test_a_worker_that_does_not_start_is_not_tried_again(bench: Bench) -> None:
    _prepare(bench)
    assert _warm(bench) == ["cpu-0", "cpu-3"]
    bench.context.fleet.end("cpu-3", "its process ended")
    bench.context.refresh()
    bench.context.refresh()
    assert _warm(bench) == ["cpu-0"]
    _prepare(bench)  # another experiment tries again
    assert _warm(bench) == ["cpu-0", "cpu-3"]
