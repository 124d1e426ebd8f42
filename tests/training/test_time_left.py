"""The estimate of an attempt's end: steps, evaluations between them, and rows that are scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, recipe
from workbench.training.time_left import REPORT_S, TimeLeft


class Watched:
    """An estimate by a clock that the test moves, with the events that it emitted."""

    def __init__(self, every: int | None = None, last_passes: int = 1) -> None:
        self.now_s = 100.0
        self.events: list[dict[str, Any]] = []
        self.left = TimeLeft(
            self._emit, evaluate_every=every, last_passes=last_passes, clock=lambda: self.now_s
        )

    def _emit(self, kind: str, *, durable: bool = False, **data: Any) -> None:
        self.events.append({"kind": kind, **data})

    def step(self, step: int, after_s: float, steps: int = 100) -> float:
        self.now_s += after_s
        return self.left.step_done(step, steps, step_s=1.0)

    def score(self, rows: int, seconds: float) -> None:
        """Score the rows in two batches."""
        for done in (0, rows // 2, rows):
            self.now_s += seconds / 2 if done else 0
            self.left.rows_done(done, rows)


def test_the_first_report_goes_by_the_step_alone() -> None:
    assert Watched().step(10, after_s=60) == 90


def test_later_ones_go_by_the_clock_so_that_checkpoints_count() -> None:
    watched = Watched()
    watched.step(10, after_s=60)
    assert watched.step(20, after_s=30) == 80 * 3


def test_evaluations_to_come_are_counted_and_those_that_were_slow_no_step() -> None:
    watched = Watched(every=25)
    watched.step(20, after_s=5)
    watched.step(25, after_s=5)
    watched.score(96, seconds=40)
    # Steps 31 to 100 at 1 s; after steps 50 and 75, and at the end, the rows are scored.
    assert watched.step(30, after_s=5) == 70 + 3 * 40


def test_a_rehearsal_of_a_few_rows_is_no_evaluation() -> None:
    watched = Watched(every=50)
    watched.score(96, seconds=40)
    watched.score(8, seconds=2)
    assert watched.step(10, after_s=1) == 90 + 2 * 40


def test_rows_that_are_scored_are_reported_with_what_follows_them() -> None:
    watched = Watched(every=50)
    watched.step(50, after_s=1)
    watched.score(96, seconds=4 * REPORT_S)
    (event,) = watched.events
    half = 2 * REPORT_S
    assert (event["kind"], event["done"], event["rows"]) == ("rows", 48, 96)
    assert event["seconds_left"] == half + 50


def test_in_the_last_scoring_only_rows_are_left() -> None:
    watched = Watched(last_passes=2)
    watched.step(100, after_s=1)
    watched.score(96, seconds=10)
    watched.score(96, seconds=10)
    watched.score(96, seconds=60)  # answers
    left = [event["seconds_left"] for event in watched.events]
    assert left == [5, 5, 30]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_do_no_harm(rows: int) -> None:
    watched = Watched()
    watched.left.rows_done(0, rows)
    watched.left.rows_done(rows, rows)
    assert watched.events == []


def test_a_trial_reports_how_long_it_will_still_take(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", recipe(train__max_steps=4, train__log_every=1))
    log = bench.run()
    rows = [row for row in log.of("metric") if "loss" in row["values"]]
    assert [(row["step"], row["steps"]) for row in rows] == [(n, 4) for n in (1, 2, 3, 4)]
    assert all(row["seconds_left"] >= 0 for row in rows)
    assert rows[-1]["seconds_left"] < rows[1]["seconds_left"] + 60
