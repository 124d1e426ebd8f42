"""Big and small trials on cards of 24 and 12 GiB end about as soon as in the best order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

import pytest

from tests.support.best_makespan import best_makespan
from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench.scheduler.placement.unequal_cards import big_trials_first, tokens_left
from workbench.store.rows import TrialRow
from workbench.store.trial_queue import first_queued
from workbench.trial import Kind, State

MakeBench = Callable[..., Bench]
SIZES = (24, 12)
"""GiB of the two cards; a big trial fits the first alone."""
BIG_AND_SMALL = {"parameters": {"data.max_tokens": [64, 32768], "train.max_steps": [4, 16, 8, 6]}}
WIDE = {"batch_size": 64, "gradient_checkpointing": "off", "save_every": 900}


def makespan(order: Sequence[TrialRow], need: Mapping[int, int], lasts: Mapping[int, int]) -> int:
    """Return when the last trial ends if each gets the smallest free card that takes it."""
    waiting, free, running, now = list(order), sorted(SIZES), list[tuple[int, int]](), 0
    while waiting or running:
        for trial in list(waiting):
            if card := next((size for size in free if size >= need[trial.id]), None):
                heappush(running, (now + lasts[trial.id], card))
                free.remove(card)
                waiting.remove(trial)
        now, card = heappop(running)
        free = sorted([*free, card])
    return now


@pytest.fixture
def trial(bench_of: MakeBench) -> TrialRow:
    """One queued trial, of which others are made."""
    bench = bench_of()
    bench.submit(recipe())
    return bench.store.trial(2)


@pytest.mark.parametrize("share_of_big", [0.2, 0.35, 0.5])
def test_the_last_trial_ends_within_a_tenth_of_the_best_order(
    trial: TrialRow, share_of_big: float
) -> None:
    """It holds for 60 mixes whose durations are known up to a quarter, as estimates are."""
    for seed in range(60):
        draw = random.Random(seed)
        trials = [replace(trial, id=id) for id in range(draw.randint(8, 16))]
        need = {one.id: 24 if draw.random() < share_of_big else 12 for one in trials}
        lasts = {id: draw.randint(20, 60) if need[id] == 24 else draw.randint(5, 30) for id in need}
        work = {id: lasts[id] * draw.uniform(0.8, 1.25) for id in lasts}
        order = big_trials_first(trials, lambda t: need[t.id], lambda t: work[t.id])  # noqa: B023
        best = best_makespan([(need[id] == 24, lasts[id]) for id in need])
        assert makespan(order, need, lasts) <= 1.1 * best, f"seed {seed}"


def test_the_scheduler_places_a_mixed_sweep_in_that_order(bench_of: MakeBench) -> None:
    """The grid's order begins with small trials, which would take both cards."""
    bench = bench_of(cpu_card(0, 2), cpu_card(1, 64))
    id = bench.submit(recipe(train=WIDE, sweep=BIG_AND_SMALL))
    while not all(one.state.final for one in bench.store.trials(id)):
        bench.ticks(1)
    attempts = [(row, bench.store.attempts(row.id)) for row in bench.store.trials(id)]
    spans = [(row, one.started_utc, one.ended_utc or 0.0, one.card) for row, [one] in attempts]
    assert {row.state for row, *_ in spans} == {State.DONE}
    big = {row.id: row.settings.get("data.max_tokens") == 32768 for row, *_ in spans}
    assert {card for row, _, _, card in spans if big[row.id]} == {"cpu-1"}
    # Each trial's card stands still for a tick before the next one.
    best = best_makespan([(big[row.id], end - start + 1) for row, start, end, _ in spans])
    last, first = max(end for *_, end, _ in spans), min(start for _, start, *_ in spans)
    assert last - first <= 1.1 * best


def test_only_equal_claims_are_reordered(trial: TrialRow) -> None:
    """Moved and pinned trials, the base, and other experiments keep their places."""
    base = replace(trial, id=1, kind=Kind.BASE)
    moved, pinned = replace(trial, id=2, rank=-1.0), replace(trial, id=3, desired_card="cpu-0")
    other = replace(trial, id=4, experiment=9)
    small, long, big = (replace(trial, id=id) for id in (5, 6, 7))
    queue = [base, moved, pinned, other, small, long, big]
    found = big_trials_first(queue, lambda t: int(t.id == 7), lambda t: float(t.id == 6))
    assert [one.id for one in found] == [1, 2, 3, 4, 7, 6, 5]


def test_tokens_left_follow_steps_rows_and_lengths(bench_of: MakeBench) -> None:
    bench = bench_of()
    values = {"parameters": {"train.max_steps": [10, 20]}}
    steps = bench.submit(recipe(sweep=values), train_rows=100, mean_length=16)
    values = {"parameters": {"train.epochs": [1, 3], "data.max_tokens": [8, 64]}}
    epochs = bench.submit(recipe(train={}, sweep=values), train_rows=100, mean_length=16)
    found = {}
    for id in (steps, epochs):
        queued = first_queued(bench.store, 99, of_each=99)
        mine = [one for one in queued if one.experiment == id and one.kind == "tune"]
        found[id] = [tokens_left(one, bench.store.experiment(id)) for one in mine]
    per_step = 4 * 16
    assert found[steps] == [10 * per_step, 20 * per_step]
    assert sorted(found[epochs]) == [800, 1600, 2400, 4800]
    resumed = replace(mine[0], checkpoint_step=3)
    assert tokens_left(resumed, bench.store.experiment(epochs)) < found[epochs][0]
