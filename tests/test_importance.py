"""Settings that decide are found, others are not, and too few trials are named as such."""

from __future__ import annotations

import random

from workbench.importance import LEAST_TRIALS, RankedTrial, rank_settings

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def outcomes(seed: int, trials: int, weight: float) -> list[RankedTrial]:
    """Learning rate decides by `weight`, chance the rest; rank and schedule decide nothing."""
    dice = random.Random(seed)
    drawn = []
    for _ in range(trials):
        rate = dice.uniform(0, 1)
        settings = {
            "train.learning_rate": rate,
            "lora.rank": dice.choice([8, 16, 32]),
            "train.schedule": dice.choice(["linear", "cosine"]),
        }
        drawn.append((weight * rate + (1 - weight) * dice.random(), settings))
    drawn.sort(key=lambda one: one[0])
    return [
        RankedTrial(settings=settings, place=n) for n, (_, settings) in enumerate(drawn, start=1)
    ]


def test_what_decides_comes_first_and_is_significant() -> None:
    found = rank_settings(outcomes(1, 40, 0.9))
    first = found[0]
    assert first.key == "train.learning_rate"
    assert first.share > 0.5
    assert first.low <= first.share <= first.high
    assert first.chance < 0.05
    assert first.best.startswith("0.0")  # the lowest third did best
    assert all(one.share < 0.3 for one in found[1:])


def test_where_chance_decides_settings_are_rarely_told() -> None:
    """By chance it is five in a hundred: of 60 settings about three."""
    told = [
        one.chance <= 0.05 for seed in range(20) for one in rank_settings(outcomes(seed, 20, 0))
    ]
    assert len(told) == 60
    assert sum(told) <= 9


def test_an_interval_narrows_with_more_trials() -> None:
    few, many = (rank_settings(outcomes(3, n, 0.8))[0] for n in (12, 200))
    assert many.high - many.low < few.high - few.low


def test_a_grid_is_taken_apart_exactly() -> None:
    """Rate decides alone: its share is nearly all, and rank's is none."""
    grid = [(rate, rank) for rate in RATES for rank in (4, 8, 16)]
    points = [
        RankedTrial(settings={"train.learning_rate": rate, "lora.rank": rank}, place=n)
        for n, (rate, rank) in enumerate(grid, start=1)
    ]
    first, second = rank_settings(points)
    assert (first.key, first.best) == ("train.learning_rate", "0.0001")
    assert first.share > 0.9
    assert second.share == 0.0
    assert second.chance > 0.5


def test_too_few_tell_nothing() -> None:
    assert rank_settings(outcomes(1, LEAST_TRIALS - 1, 1.0)) == []
    assert rank_settings(outcomes(1, LEAST_TRIALS, 1.0))


def test_settings_that_never_differ_or_are_not_always_there_do_no_harm() -> None:
    points = [
        RankedTrial(settings={"lora.rank": 8, **({"lora.alpha": n} if n % 2 else {})}, place=n)
        for n in range(1, 21)
    ]
    assert [one.key for one in rank_settings(points)] == ["lora.alpha"]


def test_the_same_trials_give_the_same_answer() -> None:
    assert rank_settings(outcomes(5, 30, 0.5)) == rank_settings(outcomes(5, 30, 0.5))
