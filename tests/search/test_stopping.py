"""Early stopping agrees with arXiv 1810.05934 and with Optuna's own pruners."""

from __future__ import annotations

import math
import random
import warnings
from collections import defaultdict

import optuna
import pytest

from workbench.search.stopping import (
    is_behind_median,
    is_out_of_patience,
    rungs_reached,
    survives_rung,
)

STEPS = 27


def curves(seed: int, trials: int = 40) -> list[list[float]]:
    """Return falling losses that cross now and then, for steps 1 to STEPS."""
    dice = random.Random(seed)
    made = []
    for _ in range(trials):
        level, speed = dice.uniform(0.1, 2), dice.uniform(0.05, 1)
        made.append(
            [level + 3 * math.exp(-speed * n) + dice.gauss(0, 0.1) for n in range(1, STEPS + 1)]
        )
    return made


def interleaved(seed: int, losses: list[list[float]], at_once: int) -> list[tuple[int, int]]:
    """Return (trial, step) in an order in which that many cards may report."""
    dice = random.Random(seed)
    left: dict[int, int] = {}
    waiting, order = list(range(len(losses))), []
    while left or waiting:
        while waiting and len(left) < at_once:
            left[waiting.pop(0)] = 1
        trial = dice.choice(list(left))
        order.append((trial, left[trial]))
        left[trial] += 1
        if left[trial] > STEPS:
            del left[trial]
    return order


def halved(
    losses: list[list[float]], order: list[tuple[int, int]], reduction: int
) -> dict[int, int]:
    """Return the step at which our rule ended each trial; trials that finished are absent."""
    at_rung: dict[int, list[float | None]] = defaultdict(list)
    ended: dict[int, int] = {}
    judged: dict[int, int] = defaultdict(int)
    for trial, step in order:
        if trial in ended:
            continue
        curve = [(n, losses[trial][n - 1]) for n in range(1, step + 1)]
        for rung, (_, value) in list(enumerate(rungs_reached(curve, 1, reduction)))[
            judged[trial] :
        ]:
            judged[trial] += 1
            at_rung[rung].append(value)
            if not survives_rung(value, at_rung[rung], reduction):
                ended[trial] = step
                break
    return ended


@pytest.mark.parametrize("reduction", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_halving_ends_what_optunas_live_pruner_ends(seed: int, reduction: int) -> None:
    losses = curves(seed)
    order = interleaved(seed, losses, at_once=4)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
    study = optuna.create_study(pruner=pruner)
    asked: dict[int, optuna.Trial] = {}
    theirs: dict[int, int] = {}
    for trial, step in order:
        if trial in theirs:
            continue
        live = asked.setdefault(trial, study.ask())
        live.report(losses[trial][step - 1], step)
        if live.should_prune():
            theirs[trial] = step
            study.tell(live, state=optuna.trial.TrialState.PRUNED)
    assert halved(losses, order, reduction) == theirs
    assert len(theirs) > len(losses) // 2


@pytest.mark.parametrize("seed", range(20))
def test_halving_keeps_the_trials_that_the_published_algorithm_promotes(seed: int) -> None:
    """Algorithm 2's get_job: candidates ← top_k(rung k, |rung k| / η), once η have come."""
    dice = random.Random(seed)
    rung: list[float | None] = []
    for _ in range(60):
        value = dice.random()
        rung.append(value)
        candidates = sorted(one for one in rung if one is not None)[: len(rung) // 3]
        if len(rung) >= 3:
            assert survives_rung(value, rung, 3) is (value in candidates)


def test_the_first_to_arrive_continues_and_a_loss_that_is_no_number_does_not() -> None:
    assert survives_rung(9.0, [9.0], 3)
    assert not survives_rung(9.1, [9.0, 9.1], 3)
    assert not survives_rung(None, [None], 3)
    assert survives_rung(9.0, [None, None, 9.0], 3)


def test_a_rung_takes_the_first_value_at_or_behind_it() -> None:
    curve = [(4, 1.0), (8, 0.9), (12, 0.8), (40, 0.5)]
    assert list(rungs_reached(curve, 5, 3)) == [(8, 0.9), (40, 0.5)]
    assert list(rungs_reached(curve[:1], 5, 3)) == []
    assert [step for step, _ in rungs_reached([(100, 1.0)], 5, 3)] == [100, 100, 100]


@pytest.mark.parametrize("seed", range(5))
def test_the_median_rule_ends_what_optunas_median_pruner_ends(seed: int) -> None:
    losses = curves(seed, trials=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    study = optuna.create_study(pruner=pruner)
    finished: list[list[float]] = []
    ended = 0
    for course in losses:
        live = study.ask()
        for step, value in enumerate(course, start=1):
            live.report(value, step)
            told = list(enumerate(course[:step], start=1))
            ours = is_behind_median(told, [one[step - 1] for one in finished], 5)
            assert ours is bool(live.should_prune())
            if ours:
                ended += 1
                study.tell(live, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            finished.append(course)
            study.tell(live, course[-1])
    assert ended


def test_patience_ends_what_stopped_getting_better() -> None:
    falling = [(n, 5.0 - n) for n in range(1, 5)]
    assert not is_out_of_patience(falling, 2, 0.0)
    assert not is_out_of_patience([*falling, (5, 1.5)], 2, 0.0)
    assert is_out_of_patience([*falling, (5, 1.5), (6, 1.0)], 2, 0.0)
    assert is_out_of_patience([*falling, (5, 0.99), (6, 0.98)], 2, 0.05)
    assert not is_out_of_patience([(1, None), (2, 3.0)], 2, 0.0)
