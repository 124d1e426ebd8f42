"""The smallest difference that rows can show is the one that 80 % of repetitions find."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.verdict.paired import answer_p_values
from workbench.verdict.power import (
    HALF_COSTS,
    smallest_mean_difference,
    smallest_share_difference,
)


@pytest.mark.parametrize(("rows", "discordance"), [(200, 0.1), (200, 0.3), (1_000, 0.1)])
def test_a_share_of_that_size_is_found_in_four_of_five_repetitions(
    rows: int, discordance: float
) -> None:
    difference = smallest_share_difference(rows, discordance)
    assert difference is not None
    random = np.random.default_rng(1)
    gained_share = (discordance + difference) / 2
    chances = [gained_share, discordance - gained_share, 1 - discordance]
    counts = random.multinomial(rows, chances, size=4_000).astype(float)
    found = answer_p_values(counts[:, 0], counts[:, 1], rows) < 0.05
    assert 0.74 <= found.mean() <= 0.86


def test_a_loss_of_that_size_is_found_in_four_of_five_repetitions() -> None:
    rows, spread = 200, 0.3
    difference = smallest_mean_difference(rows, spread)
    random = np.random.default_rng(2)
    drawn = random.normal(difference, spread, size=(4_000, rows))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / np.sqrt(rows))
    assert 0.77 <= (np.abs(t) > 1.972).mean() <= 0.83


def test_half_the_difference_needs_four_times_the_rows() -> None:
    whole = smallest_mean_difference(100, 1.0)
    assert smallest_mean_difference(HALF_COSTS * 100, 1.0) == pytest.approx(whole / 2)
    share, half = smallest_share_difference(100, 0.3), smallest_share_difference(400, 0.3)
    assert share is not None
    assert half is not None
    assert half == pytest.approx(share / 2, rel=0.05)


def test_too_few_rows_show_nothing() -> None:
    assert smallest_share_difference(10, 0.1) is None
    assert smallest_share_difference(100, 0.0) is None
