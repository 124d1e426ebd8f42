"""Paired differences: known values, exact p-values, and edges where formulas break."""

import numpy as np
import pytest
from scipy import stats

from tests.verdict.made_up import drawn_losses, losses
from workbench.verdict.paired import (
    answer_p_values,
    compare_answers,
    compare_pairs,
    exact_mcnemar,
    mid_p_mcnemar,
    tango_interval,
)
from workbench.verdict.rows import RowMatrix, ScoreKind, common_matrix


def matrix_of(values: list[list[float]]) -> RowMatrix:
    return RowMatrix(values_KN=np.array(values), weights_N=np.ones(len(values[0])))


def test_tango_gives_the_published_ends() -> None:
    # Fagerland, Lydersen & Laake 2014, Statist. Med. 33:2850: airway hyper-responsiveness.
    lows, highs = tango_interval(np.array([1.0]), np.array([7.0]), 21)

    assert (lows[0], highs[0]) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_the_end_of_tangos_interval_solves_his_equation() -> None:
    gained, lost, rows, z = 12.0, 5.0, 80, 1.959964
    lows, _ = tango_interval(np.array([gained]), np.array([lost]), rows)
    end = lows[0]
    b = -gained - lost + (2 * rows - gained + lost) * end
    share = (np.sqrt(b * b + 8 * rows * lost * end * (1 - end)) - b) / (4 * rows)
    error = np.sqrt(rows * (2 * share + end * (1 - end)))

    assert (gained - lost - rows * end) / error == pytest.approx(z, abs=1e-5)


def test_answers_that_agree_on_every_row_still_have_an_interval() -> None:
    table = compare_answers(np.ones((2, 64)))

    assert table.differences_KK[0, 1] == 0
    assert table.lows_KK[0, 1] < 0 < table.highs_KK[0, 1]
    assert table.p_KK[0, 1] == 1.0


def test_mid_p_gives_the_published_value() -> None:
    # Fagerland et al. 2013: 1 against 7 rows, mid-p 0.039; the exact test's 0.070.
    assert mid_p_mcnemar(np.array([1.0]), np.array([7.0]))[0] == pytest.approx(0.0390625)
    assert mid_p_mcnemar(np.array([3.0]), np.array([3.0]))[0] == 1.0
    assert mid_p_mcnemar(np.array([0.0]), np.array([0.0]))[0] == 1.0


def test_above_half_the_rows_the_p_value_is_that_of_the_exact_test() -> None:
    gained, lost = np.array([4.0, 4.0]), np.array([12.0, 12.0])
    exact = stats.binomtest(4, 16).pvalue

    assert exact_mcnemar(gained, lost)[0] == pytest.approx(exact)
    assert answer_p_values(gained, lost, 31)[0] == pytest.approx(exact)
    assert answer_p_values(gained, lost, 32)[0] == mid_p_mcnemar(gained, lost)[0] < 0.05 < exact


def test_p_values_up_to_16_rows_count_every_flip() -> None:
    one, other = np.array([0.5, 2.0, 1.5, 3.0, 0.1, 1.0]), np.array([0.4, 1.1, 1.6, 2.0, 0.2, 0.7])
    expected = stats.permutation_test(
        (one - other,), np.sum, permutation_type="samples", n_resamples=np.inf
    )

    table = compare_pairs(matrix_of([one.tolist(), other.tolist()]), ScoreKind.RATIO)

    assert table.p_KK[0, 1] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("shift", [0.5, 1.0])
def test_random_flips_come_near_the_p_value_of_all_flips(shift: float) -> None:
    values = np.random.default_rng(3).normal(shift, 1.0, 17)
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )

    table = compare_pairs(matrix_of([values.tolist(), [0.0] * 17]), ScoreKind.RATIO)

    # Four standard errors of a share among 999 flips, or among 9,999 where fewer are as extreme.
    flips = 999 if expected.pvalue > 0.1 else 9_999
    room = 4 * np.sqrt(expected.pvalue * (1 - expected.pvalue) / flips)
    assert 0.001 < expected.pvalue < 0.5
    assert table.p_KK[0, 1] == pytest.approx(expected.pvalue, abs=room)


@pytest.mark.parametrize("kind", [ScoreKind.RATIO, ScoreKind.GRADED])
def test_rows_of_equal_weight_have_the_paired_t_interval(kind: ScoreKind) -> None:
    one, other = drawn_losses(1, 1.0, 50), drawn_losses(2, 0.97, 50)
    per_token = [result.sums["loss"] / result.targets for result in (one, other)]
    expected = stats.ttest_rel(*per_token)
    ends = expected.confidence_interval(0.95)

    found = compare_pairs(matrix_of([v.tolist() for v in per_token]), kind).difference(0, 1)

    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    if kind is ScoreKind.GRADED:
        assert found.p == pytest.approx(expected.pvalue)
    else:  # by sign flips
        assert found.p == pytest.approx(expected.pvalue, abs=0.03)


def test_long_rows_weigh_more_in_a_difference_of_losses() -> None:
    targets = [1] * 10 + [100] * 10
    one = losses(1, [1.0] * 10 + [2.0] * 10, targets)
    other = losses(2, [9.0] * 10 + [1.9] * 10, targets)
    table = compare_pairs(common_matrix([one, other], "loss"), ScoreKind.RATIO)

    assert table.differences_KK[0, 1] == pytest.approx((-8 * 10 + 0.1 * 1_000) / 1_010)


def test_equal_results_differ_by_nothing() -> None:
    one = drawn_losses(1, 1.0)
    table = compare_pairs(common_matrix([one, one], "loss"), ScoreKind.RATIO)

    found = table.difference(0, 1)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert not found.significant


def test_a_difference_read_the_other_way_has_the_opposite_sign() -> None:
    results = [drawn_losses(1, 1.0), drawn_losses(2, 0.98)]
    table = compare_pairs(common_matrix(results, "loss"), ScoreKind.RATIO)
    there, back = table.difference(0, 1), table.difference(1, 0)

    assert (there.difference, there.low, there.high) == (-back.difference, -back.high, -back.low)
    assert there.p == back.p


def test_the_interval_of_a_difference_of_f1_stays_within_one() -> None:
    table = compare_pairs(matrix_of([[1.0, 0.2, 1.0], [0.0, 0.1, 0.1]]), ScoreKind.GRADED)
    outside = compare_pairs(matrix_of([[3.0, 0.2, 1.0], [0.0, 0.1, 0.1]]), ScoreKind.GRADED)

    assert table.highs_KK[0, 1] == 1.0
    assert outside.highs_KK[0, 1] > 1.0


def test_two_graded_rows_that_differ_alike_prove_nothing() -> None:
    table = compare_pairs(matrix_of([[0.9, 0.8], [0.4, 0.3]]), ScoreKind.GRADED)

    assert table.p_KK[0, 1] >= 0.5


def test_a_single_row_of_losses_shows_no_difference() -> None:
    found = compare_pairs(matrix_of([[1.0], [2.0]]), ScoreKind.RATIO).difference(0, 1)

    assert found.p == 1.0
    assert not found.significant
