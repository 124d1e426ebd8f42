"""Intervals and claims are right as often as they say, on boards whose truth is known."""

import numpy as np
import pytest

from tests.verdict import simulated_truth as simulated
from workbench.verdict.paired import compare_pairs
from workbench.verdict.rows import ScoreKind

QUICK = 300
SLOW = 2_000
# Three standard errors of a share of 0.95 and of 0.05 among 300 and 2,000 simulations, by which
# a method that keeps its word may miss the bound by chance. Seeds are fixed: no test is flaky.
SLACK = {QUICK: 0.038, SLOW: 0.015}

repeated = pytest.mark.parametrize(
    "repetitions", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)]
)


def near_95(share: float, repetitions: int) -> bool:
    """Return True if a coverage lies within 93 to 97 %, or misses it by chance in the quick run."""
    slack = 0.01 if repetitions == QUICK else 0.0
    return 0.93 - slack <= share <= 0.97 + slack


@repeated
def test_the_interval_of_a_heavy_tailed_loss_covers(repetitions: int) -> None:
    assert simulated.single_loss_coverage(16, repetitions) >= 0.85
    assert simulated.single_loss_coverage(256, repetitions) >= 0.90


@pytest.mark.parametrize("rows", [8, 16, 64, 256, 1_000])
def test_wilson_covers_on_average_and_nowhere_badly(rows: int) -> None:
    mean, lowest = simulated.wilson_coverage(rows)

    assert 0.93 <= mean <= 0.97
    assert lowest >= 0.83


@repeated
def test_intervals_of_paired_losses_cover_from_64_rows_on(repetitions: int) -> None:
    for rows in (64, 256):
        covered, rejected = simulated.paired_loss_coverage(rows, repetitions)

        assert near_95(covered, repetitions), rows
        assert rejected <= 0.05 + SLACK[repetitions], rows


@repeated
@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.05), (0.15, 0.15), (0.2, 0.1), (0.3, 0.05)])
def test_intervals_of_paired_answers_cover_from_64_rows_on(
    gained: float, lost: float, repetitions: int
) -> None:
    for rows in (64, 256, 1_000):
        # Counts cost nothing: enough of them that chance does not decide.
        covered, rejected = simulated.paired_answer_coverage(rows, gained, lost, 10 * repetitions)

        assert 0.93 <= covered <= 0.97, rows
        assert gained != lost or rejected <= 0.055, rows


@pytest.mark.parametrize("rows", [10, 16, 64, 200])
def test_two_equal_adapters_are_told_apart_by_their_answers_in_at_most_5_percent(rows: int) -> None:
    """Exact, because two adapters use up nearly all of the 5 %."""
    levels = [simulated.answer_claim_level(rows, share) for share in np.linspace(0.02, 0.6, 30)]

    assert max(levels) <= 0.05


@repeated
@pytest.mark.parametrize("adapters", [6, 24, 100])
def test_equal_answers_are_seldom_called_better(adapters: int, repetitions: int) -> None:
    false, kept, _ = simulated.equal_answers(adapters, 64, repetitions)

    assert false <= 0.05
    assert kept >= 0.95


@repeated
@pytest.mark.parametrize("adapters", [2, 6, 24])
def test_equal_losses_are_seldom_called_better(adapters: int, repetitions: int) -> None:
    false, kept, _ = simulated.equal_losses(adapters, 64, repetitions)

    assert false <= 0.05
    assert kept >= 0.95


@pytest.mark.slow
def test_a_hundred_equal_losses_are_seldom_called_better() -> None:
    false, kept, _ = simulated.equal_losses(100, 64, 300)

    assert false <= 0.05
    assert kept >= 0.95


@repeated
def test_the_tie_group_holds_the_true_best_and_still_tells_others_apart(repetitions: int) -> None:
    false, kept, size = simulated.close_losses(24, 200, repetitions if repetitions == SLOW else 100)

    assert false <= 0.05
    assert kept >= 0.95
    assert size < 0.9  # measured: 0.82 of 24 trials stay in the group


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
