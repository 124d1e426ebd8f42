"""The base of a sweep is answered beside the first trial that is scored; once, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_control import ask
from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench.attempts.assignment import ANSWERS
from workbench.store.row_results import read_row_results
from workbench.trial import State

MakeBench = Callable[..., Bench]
SWEEP = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1]}}
BASE = 1
"""The id of the base's trial; those that train come after it."""


def answers(bench: Bench) -> Path:
    return bench.context.home.trial(BASE) / ANSWERS


def offered(bench: Bench, trial: int) -> list[Path]:
    """Return the folders of the trials that the newest attempt of that one may answer."""
    given = bench.context.assignment(bench.store.attempts(trial)[-1].id)
    return [Path(one["trial_folder"]) for one in given.beside or ()]


def starts(bench: Bench) -> list[int]:
    """Return the trials in the order in which their attempts were placed."""
    attempts = [one for trial in bench.trials() for one in bench.store.attempts(trial.id)]
    return [one.trial for one in sorted(attempts, key=lambda one: one.id)]


def assert_scored_once(bench: Bench) -> None:
    assert bench.store.trial(BASE).state is State.DONE
    assert [one.outcome for one in bench.store.attempts(BASE)] == ["done"]
    assert len(read_row_results(bench.store, [BASE])) == 1
    assert not answers(bench).exists()


def test_the_base_goes_right_after_the_first_trial_which_answers_it(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    assert offered(bench, 2) == [bench.context.home.trial(BASE)]
    assert bench.store.trial(BASE).state is State.QUEUED
    bench.until(State.DONE, 2)
    assert answers(bench).exists()
    bench.until(State.DONE, 4)
    assert starts(bench) == [2, BASE, 3, 4]
    assert offered(bench, 3) == []
    assert_scored_once(bench)


def test_a_card_that_no_trial_takes_scores_the_base_at_once(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe())
    bench.until(State.DONE, BASE)
    assert bench.store.trial(2).state.live
    bench.until(State.DONE, 2)
    assert_scored_once(bench)


@pytest.mark.parametrize("verb", ["pause", "kill"])
def test_a_trial_that_ends_unscored_leaves_the_base_to_the_next(
    verb: str, bench_of: MakeBench
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    assert ask(bench, verb, trial=2).ok
    bench.until(State.RUNNING, 3)
    assert starts(bench) == [2, 3]
    assert offered(bench, 3) == [bench.context.home.trial(BASE)]
    bench.until(State.DONE, 4)
    assert starts(bench) == [2, 3, BASE, 4]
    assert_scored_once(bench)


def test_a_lost_worker_leaves_the_base_to_the_next_attempt(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    bench.context.fleet.end("cpu-0", "killed by signal 9")
    bench.until(State.DONE, 4)
    assert starts(bench) == [2, 2, BASE, 3, 4]
    assert_scored_once(bench)


def test_a_base_whose_trial_failed_is_scored_by_itself(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(train={"max_steps": 6, "learning_rate": 0.666}))
    bench.until(State.DONE, BASE)
    assert bench.store.trial(2).state is State.FAILED
    assert starts(bench) == [2, BASE]
    assert_scored_once(bench)


def test_of_trials_that_end_at_once_one_answers_the_base(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    assert offered(bench, 2) == offered(bench, 3) == [bench.context.home.trial(BASE)]
    bench.until(State.DONE, 4)
    bench.ticks(5)
    assert starts(bench)[:3] == [2, 3, BASE]
    assert_scored_once(bench)


def test_a_loop_that_starts_again_scores_the_base_once(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    bench.context.beside.clear()
    bench.context.plans.clear()
    bench.until(State.DONE, 4)
    assert starts(bench) == [2, BASE, 3, 4]
    assert_scored_once(bench)


@pytest.mark.parametrize(
    "settings",
    [
        {"evaluate": {}},
        {"evaluate": {"task": "/tasks/sums.yaml", "rank_by": "sums_acc"}},
    ],
    ids=["losses alone", "a task"],
)
def test_a_base_without_answers_goes_first(settings: dict[str, Any], bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP, **settings))
    bench.until(State.RUNNING, 2)
    assert starts(bench) == [BASE, 2]
    assert offered(bench, 2) == []


def test_a_base_that_a_person_moved_to_the_front_goes_first(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=SWEEP))
    assert ask(bench, "order", trial=BASE, to="front").ok
    bench.until(State.DONE, BASE)
    assert starts(bench)[0] == BASE


def test_a_trial_with_other_rows_is_not_offered_the_base(bench_of: MakeBench) -> None:
    data = {"train": "/d.jsonl", "eval": "/e.jsonl", "max_tokens": 64}
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(data=data, sweep={"parameters": {"data.max_tokens": [32, 64]}}))
    bench.until(State.RUNNING, 2)
    assert offered(bench, 2) == []
    bench.until(State.RUNNING, 3)
    assert offered(bench, 3) == [bench.context.home.trial(BASE)]


def test_a_trial_of_another_machine_is_not_offered_the_base(bench_of: MakeBench) -> None:
    bench = bench_of({**cpu_card(0), "uuid": "two:cpu-0"})
    bench.submit(recipe(sweep=SWEEP))
    bench.until(State.RUNNING, 2)
    assert offered(bench, 2) == []


def test_a_search_that_proposes_one_by_one_trains_before_its_base(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    rate = {"train.learning_rate": {"min": 0.01, "max": 0.1}}
    bench.submit(recipe(sweep={"method": "tpe", "trials": 2, "parameters": rate}))
    bench.until(State.DONE, BASE)
    assert starts(bench)[:2] == [2, BASE]
    assert_scored_once(bench)
