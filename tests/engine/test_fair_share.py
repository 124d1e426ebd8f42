"""Who gets the next card: priority, then who runs least, then who had least of the cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench.store.queries import fair_share
from workbench.store.queries.fair_share import Turns, forecast_order
from workbench.store.rows import TrialRow
from workbench.trial import State

MakeBench = Callable[..., Bench]
MANY = {"parameters": {"train.seed": list(range(40))}}


def live(bench: Bench, experiment: int) -> int:
    return len([t for t in bench.store.trials(experiment) if t.state.live])


def begun(bench: Bench, experiment: int) -> int:
    return len([t for t in bench.store.trials(experiment) if t.attempts])


def test_two_experiments_share_the_cards(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(4)])
    first = bench.submit(recipe(sweep=MANY, train={"max_steps": 900}))
    second = bench.submit(recipe(sweep=MANY, train={"max_steps": 900}))
    bench.ticks(5)
    assert (live(bench, first), live(bench, second)) == (2, 2)


def test_on_one_card_experiments_take_turns_by_the_time_they_had(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    slow = bench.submit(recipe(sweep=MANY, train={"max_steps": 30, "save_every": 100}))
    fast = bench.submit(recipe(sweep=MANY, train={"max_steps": 8, "save_every": 100}))
    bench.ticks(300)
    spent = fair_share.card_seconds(bench.store, 0.0, bench.now)
    assert abs(spent[slow] - spent[fast]) <= 35  # no more than the longest trial apart
    assert begun(bench, fast) > 2 * begun(bench, slow)


def test_a_latecomer_shares_from_now_on_and_does_not_take_all(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    first = bench.submit(recipe(sweep=MANY, train={"max_steps": 9}))
    bench.ticks(200)
    before = begun(bench, first)
    second = bench.submit(recipe(sweep=MANY, train={"max_steps": 9}))
    bench.ticks(100)
    assert begun(bench, first) - before >= 3
    assert begun(bench, second) >= 3


def test_higher_priority_comes_first(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=MANY, train={"max_steps": 900}))
    urgent = bench.submit(recipe(train={"max_steps": 900}))
    with bench.store.writing():
        bench.store.db.execute("update experiments set priority = 5 where id = ?", (urgent,))
    bench.ticks(1)
    assert [t.state for t in bench.store.trials(urgent)] == [State.STARTING]


def test_the_limit_of_an_experiment_can_change_while_it_runs(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(4)])
    id = bench.submit(recipe(sweep={**MANY, "max_parallel": 1}, train={"max_steps": 900}))
    bench.ticks(3)
    assert live(bench, id) == 1
    with bench.store.writing():
        bench.store.db.execute("update experiments set max_parallel = 3 where id = ?", (id,))
    bench.ticks(3)
    assert live(bench, id) == 3


def test_the_tenth_experiment_is_looked_at_too(bench_of: MakeBench) -> None:
    """Nine whose trials fit no free card do not hide the tenth, whose trial does."""
    bench = bench_of(cpu_card(0, 2), cpu_card(1, 64))
    big = recipe(
        data={"train": "/d", "max_tokens": 32768},
        train={"batch_size": 64, "gradient_checkpointing": "off", "max_steps": 900},
        sweep=MANY,
    )
    for _ in range(9):
        bench.submit(big)
    last = bench.submit(recipe(train={"max_steps": 900}))
    bench.ticks(60)
    assert [t.card for t in bench.store.trials(last)] == ["cpu-0"]


@pytest.mark.parametrize("place", [0, 1])
def test_a_trial_that_found_no_card_counts_for_nothing(bench_of: MakeBench, place: int) -> None:
    bench = bench_of()
    for _ in range(2):
        bench.submit(recipe(sweep=MANY))
    queued = [t for t in bench.trials() if t.kind == "tune"]
    turns = Turns(queued, {}, {}, {})
    order: list[TrialRow] = []
    for trial in turns:
        order.append(trial)
        if place:
            turns.placed(trial)
    owners = [trial.experiment for trial in order[:4]]
    assert owners == ([1, 2, 1, 2] if place else [1, 1, 1, 1])


def foretold(bench: Bench) -> list[int]:
    return [trial.id for trial in forecast_order(bench.store, bench.now)]


def placed(bench: Bench, since: int) -> list[int]:
    """Trials in the order in which they began, of attempts after that one."""
    rows = bench.store.db.execute("select trial from attempts where id > ? order by id", (since,))
    return [row[0] for row in rows]


@pytest.mark.parametrize("cards", [1, 2, 3])
def test_the_queue_is_shown_in_the_order_in_which_it_is_placed(
    bench_of: MakeBench, cards: int
) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(cards)])
    seeds = {"parameters": {"train.seed": [1, 2, 3, 4]}}
    losses: dict[str, Any] = {"evaluate": {}}
    bench.submit(recipe(sweep={**seeds, "max_parallel": 1}, **losses))
    bench.submit(recipe(sweep=seeds, **losses))
    urgent = bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}, **losses))
    bench.store.steer_experiment(urgent, priority=5)
    bench.store.to_front(9)  # of the second one
    bench.ticks(12)
    since = max(a.id for a in bench.store.live_attempts())
    shown = foretold(bench)
    bench.ticks(200)
    assert shown == placed(bench, since)
    assert len(shown) >= 4


@pytest.mark.parametrize(("cards", "order"), [(1, [4, 3, 5]), (2, [5, 3])])
def test_a_base_is_foretold_behind_the_first_trial_which_answers_it(
    bench_of: MakeBench, cards: int, order: list[int]
) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(cards)])
    urgent = bench.submit(recipe(evaluate={}))
    bench.store.steer_experiment(urgent, priority=5)
    other = {"name": "/m", "quantization": "none"}
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}, model=other))
    bench.ticks(4)
    since = max(a.id for a in bench.store.live_attempts())
    shown = foretold(bench)
    bench.ticks(60)
    assert shown == placed(bench, since) == order


def test_a_trial_at_the_front_is_foretold_before_a_base_that_is_answered(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    bench.until(State.RUNNING, 2)
    bench.store.to_front(4)
    shown = foretold(bench)
    since = max(a.id for a in bench.store.live_attempts())
    bench.ticks(60)
    assert shown == placed(bench, since) == [4, 1, 3]


def test_what_is_held_stands_last_in_the_queue(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    held = bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}))
    bench.store.steer_experiment(held, held=1, priority=9)
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2]}}, train={"max_steps": 900}))
    bench.ticks(12)
    assert foretold(bench) == [5, 1, 2, 3]


def test_of_a_very_long_queue_the_next_are_foretold_and_all_are_listed(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    for _ in range(2):
        seeds = {"parameters": {"train.seed": list(range(300))}}
        bench.submit(recipe(sweep=seeds, train={"max_steps": 900}))
    bench.ticks(12)
    waiting = [t.id for t in bench.trials() if t.state is State.QUEUED]
    assert sorted(foretold(bench)) == waiting
