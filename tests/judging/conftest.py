"""A store with a sweep of five trials that were scored on the same held-out rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.trial import State

ROWS = 96
RIGHT = {1: 3, 2: 40, 3: 62, 4: 78, 5: 80}
"""Right answers by trial; trial 1 is the base."""
CARDS = [cpu_card(0), cpu_card(1)]
GRID = {"parameters": {"train.learning_rate": [0.01, 0.02, 0.03, 0.04]}}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = make_bench(tmp_path, CARDS)
    yield made
    made.context.fleet.close()
    made.store.close()


@pytest.fixture(scope="session")
def ended_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of a home whose sweep has ended, and the time by then: `swept` copies it."""
    folder = tmp_path_factory.mktemp("swept")
    made = make_bench(folder, CARDS)
    id = made.submit(recipe(sweep=GRID))
    for trial in RIGHT:
        made.until(State.DONE, trial)
    while made.store.experiment(id).ended_utc is None:
        made.ticks()
    for trial, right in RIGHT.items():
        made.store.db.execute(
            "update scores set value = ? where trial = ? and name = 'exact_match'",
            (right / ROWS, trial),
        )
    made.store.db.execute("delete from row_results")
    made.context.fleet.close()
    made.store.close()
    return folder, made.now


@pytest.fixture
def swept(ended_sweep: tuple[Path, float], tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """Experiment 1: the base (trial 1), and trials 2 to 5, done, without results by row."""
    folder, now = ended_sweep
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    made: Bench = request.getfixturevalue("bench")  # over the copy
    made.now = now
    return made


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
