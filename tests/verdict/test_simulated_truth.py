"""Intervals and claims are right as often as they say, on boards whose truth is known."""

import numpy as np
import pytest
from scipy.stats import binom

from tests.verdict import simulated_truth as simulated
from workbench.verdict.paired import compare_pairs
from workbench.verdict.rows import ScoreKind

QUICK = 300
FEW = 100
"""Repetitions of what takes 10 ms each: boards of many adapters, and many rows of losses."""
SLOW = 2_000
CHANCE = 0.001
"""Probability that a method which only just keeps a bound misses it in a run."""

repeated = pytest.mark.parametrize(
    "repetitions", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)]
)
seldom_repeated = pytest.mark.parametrize(
    "repetitions", [FEW, pytest.param(SLOW, marks=pytest.mark.slow)]
)

QUICK_BOARDS = [(adapters, QUICK if adapters < 24 else FEW) for adapters in simulated.EQUAL]
SLOW_BOARDS = [pytest.param(adapters, SLOW, marks=pytest.mark.slow) for adapters in simulated.EQUAL]


def at_least(share: float, bound: float, repetitions: int) -> bool:
    """Return True if a share of the repetitions reaches the bound, or misses it by chance.

    Seeds are fixed: no test is flaky.
    """
    return bool(share >= binom.ppf(CHANCE, repetitions, bound) / repetitions)


def at_most(share: float, bound: float, repetitions: int) -> bool:
    """Return True if a share of the repetitions is within the bound, or passes it by chance."""
    return at_least(1 - share, 1 - bound, repetitions)


def near_95(share: float, repetitions: int) -> bool:
    """Return True if a coverage lies within 93 to 97 %, or misses it by chance."""
    return at_least(share, 0.93, repetitions) and at_most(share, 0.97, repetitions)


def test_the_room_for_chance_still_finds_methods_that_are_wrong() -> None:
    # 25 % of sweeps claim falsely without corrections, a percentile bootstrap covers 83 %.
    for repetitions in (FEW, QUICK):
        assert not at_most(0.25, 0.05, repetitions)
        assert not near_95(0.83, repetitions)
    assert not near_95(0.90, SLOW)
    assert not at_most(0.07, 0.05, SLOW)


@repeated
def test_the_interval_of_a_heavy_tailed_loss_covers(repetitions: int) -> None:
    assert at_least(simulated.single_loss_coverage(16, repetitions), 0.85, repetitions)
    for rows in (256, 1_000):
        assert at_least(simulated.single_loss_coverage(rows, repetitions), 0.90, repetitions)


@pytest.mark.parametrize("rows", [8, 16, 64, 256, 1_000])
def test_wilson_covers_on_average_and_nowhere_badly(rows: int) -> None:
    mean, lowest = simulated.wilson_coverage(rows)

    assert 0.93 <= mean <= 0.97
    assert lowest >= 0.83


@pytest.mark.parametrize(
    ("rows", "repetitions"),
    [(64, QUICK), (256, FEW), *(pytest.param(n, SLOW, marks=pytest.mark.slow) for n in (64, 256))],
)
def test_intervals_of_paired_losses_cover_from_64_rows_on(rows: int, repetitions: int) -> None:
    covered, rejected = simulated.paired_loss_coverage(rows, repetitions)

    assert near_95(covered, repetitions)
    assert at_most(rejected, 0.05, repetitions)


@repeated
@pytest.mark.parametrize("rows", [64, 256])
def test_intervals_of_paired_graded_scores_cover_from_64_rows_on(
    rows: int, repetitions: int
) -> None:
    covered, rejected = simulated.paired_graded_coverage(rows, repetitions)

    assert near_95(covered, repetitions)
    assert at_most(rejected, 0.05, repetitions)


@repeated
@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.05), (0.15, 0.15), (0.2, 0.1), (0.3, 0.05)])
def test_intervals_of_paired_answers_cover_from_64_rows_on(
    gained: float, lost: float, repetitions: int
) -> None:
    for rows in (64, 256, 1_000):
        covered, _ = simulated.paired_answer_coverage(rows, gained, lost, repetitions)

        assert near_95(covered, repetitions), rows


@pytest.mark.parametrize("rows", [2, 8, 10, 16, 24, 50, 64, 67, 100, 200])
@pytest.mark.parametrize("pairs", [1, 15, 276])
def test_two_equal_adapters_are_told_apart_by_their_answers_at_most_as_often_as_allowed(
    rows: int, pairs: int
) -> None:
    """Exact, at any share of disagreeing rows, and at the levels of Holm's correction."""
    levels = simulated.answer_claim_levels(rows, simulated.SHARES, 0.05 / pairs)

    assert levels.max() <= 0.05 / pairs


@pytest.mark.parametrize(("adapters", "repetitions"), [*QUICK_BOARDS, *SLOW_BOARDS])
def test_equal_answers_are_seldom_called_better(adapters: int, repetitions: int) -> None:
    false, kept, _ = simulated.equal_answers(adapters, 64, repetitions)

    assert at_most(false, 0.05, repetitions)
    assert at_least(kept, 0.95, repetitions)


@pytest.mark.parametrize(
    ("adapters", "repetitions"),
    # 4,950 pairs of losses take half a minute; those of answers stand for them in the quick tests.
    [*QUICK_BOARDS[:-1], *SLOW_BOARDS],
)
def test_equal_losses_are_seldom_called_better(adapters: int, repetitions: int) -> None:
    false, kept, _ = simulated.equal_losses(adapters, 64, repetitions)

    assert at_most(false, 0.05, repetitions)
    assert at_least(kept, 0.95, repetitions)


@seldom_repeated
def test_the_tie_group_holds_the_true_best_and_still_tells_others_apart(repetitions: int) -> None:
    false, kept, size = simulated.close_losses(24, 200, repetitions)

    assert at_most(false, 0.05, repetitions)
    assert at_least(kept, 0.95, repetitions)
    assert size < 0.9  # measured: 0.84 of 24 trials stay in the group


@repeated
@pytest.mark.parametrize("seed_share", [0.0, 0.01, 0.05])
def test_intervals_of_finals_with_three_seeds_cover(seed_share: float, repetitions: int) -> None:
    covered = simulated.finals_coverage(3, 3, 64, seed_share, repetitions)

    assert near_95(covered, repetitions)


def test_comparing_with_a_selected_leader_claims_falsely() -> None:
    """The reason for Holm and Hsu: plain comparisons of 24 equal adapters with the best of them."""
    random = np.random.default_rng(6)
    claims = 0
    for _ in range(100):
        matrix = simulated.answer_matrix(random, 64, np.full(24, 0.5))
        table = compare_pairs(matrix, ScoreKind.ANSWERS)
        leader = int(matrix.scores_K.argmax())
        claims += bool(table.significant_KK[leader].any())

    assert claims > 50
