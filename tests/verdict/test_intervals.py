"""Intervals of single scores: known values, and edges where formulas break."""

import math

import numpy as np
import pytest
from scipy import stats

from workbench.verdict.intervals import (
    bootstrap_t,
    graded_interval,
    ratio_errors,
    share_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    # Newcombe 1998, Statist. Med. 17:857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_ends(right: int, rows: int, low: float, high: float) -> None:
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (7, 10), (50, 64), (500, 500)])
def test_wilson_gives_scipys_ends(right: int, rows: int) -> None:
    expected = stats.binomtest(right, rows).proportion_ci(method="wilson")

    assert wilson_interval(right, rows) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_a_share_never_has_an_interval_of_width_zero(rows: int) -> None:
    for right in (0, rows):
        low, high = wilson_interval(right, rows)
        assert 0 <= low < high <= 1


def test_a_share_with_the_variance_of_independent_answers_has_wilsons_interval() -> None:
    assert share_interval(0.3, 0.3 * 0.7 / 50, 50, 1.959964) == pytest.approx(
        wilson_interval(15, 50), abs=1e-6
    )


def test_the_error_of_a_ratio_with_equal_weights_is_that_of_a_mean() -> None:
    values = np.array([[1.0, 2.0, 4.0, 9.0]])
    ratios, errors = ratio_errors(values, np.ones(4))

    assert ratios[0] == 4.0
    assert errors[0] == pytest.approx(values.std(ddof=1) / 2)


def test_the_bootstrap_of_normal_values_is_close_to_the_t_interval() -> None:
    values = np.random.default_rng(2).normal(10.0, 2.0, 200)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    (low,), (high,) = bootstrap_t(values[None, :], np.ones(200))

    width = expected.high - expected.low
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.04 * width)


def test_long_rows_weigh_more_in_the_interval_of_a_loss() -> None:
    per_token = np.tile([1.0, 3.0], 50)
    weights = np.tile([90.0, 10.0], 50)
    lows, highs = bootstrap_t((per_token * weights)[None, :], weights)

    assert lows[0] < 1.2 < highs[0]
    assert highs[0] < 2.0


def test_the_interval_of_a_loss_with_a_heavy_tail_reaches_further_up_than_down() -> None:
    values = np.random.default_rng(1).lognormal(0.0, 1.0, (1, 100))
    lows, highs = bootstrap_t(values, np.ones(100))

    assert highs[0] - values.mean() > 1.3 * (values.mean() - lows[0])


def test_a_loss_never_has_an_interval_below_zero() -> None:
    values = np.zeros((1, 12))
    values[0, 0] = 5.0

    assert bootstrap_t(values, np.ones(12))[0][0] >= 0
    assert bootstrap_t(values[:, :4], np.ones(4))[0][0] >= 0


def test_a_single_row_has_no_interval_of_a_mean() -> None:
    assert math.isnan(graded_interval(np.array([0.5]))[0])
    assert np.isnan(bootstrap_t(np.array([[2.0]]), np.ones(1))).all()


def test_graded_answers_stay_within_what_they_can_be() -> None:
    low, high = graded_interval(np.array([1.0, 1.0, 0.9, 1.0]))
    assert low < 0.975 < high <= 1.0

    low, high = graded_interval(np.full(10, 1.0))
    assert low < 1.0

    low, high = graded_interval(np.array([-3.0, 4.0, 12.0]))
    assert low < -3.0
    assert high > 12.0
