"""A store with a sweep of five trials that were scored on the same held-out rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.trial import State

ROWS = 96
RIGHT = {1: 3, 2: 40, 3: 62, 4: 78, 5: 80}
"""Right answers by trial; trial 1 is the base."""
GRID = {"parameters": {"train.learning_rate": [0.01, 0.02, 0.03, 0.04]}}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    yield made
    made.context.fleet.close()
    made.store.close()


@pytest.fixture
def swept(bench: Bench) -> Bench:
    """Experiment 1: the base (trial 1), and trials 2 to 5, done, without results by row."""
    id = bench.submit(recipe(sweep=GRID))
    for trial in RIGHT:
        bench.until(State.DONE, trial)
    while bench.store.experiment(id).ended_utc is None:
        bench.ticks()
    for trial, right in RIGHT.items():
        bench.store.db.execute(
            "update scores set value = ? where trial = ? and name = 'exact_match'",
            (right / ROWS, trial),
        )
    bench.store.db.execute("delete from row_results")
    return bench


@pytest.fixture
def judged(swept: Bench) -> Bench:
    """The same with results by row."""
    for trial, right in RIGHT.items():
        put_rows(
            swept.store,
            trial,
            losses=made_up_losses(1.0, ROWS, seed=trial),
            right=made_up_answers(right, ROWS, seed=trial),
        )
    return swept
