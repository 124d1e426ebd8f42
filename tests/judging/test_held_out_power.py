"""Differences that held-out rows can show follow from earlier trials or from assumptions."""

from __future__ import annotations

import pytest

from tests.judging.conftest import ROWS
from tests.support.row_results import EVALUATION
from tests.support.tick_contexts import Bench
from workbench.judging.held_out_power import DISCORDANCES, SPREADS, shown_differences
from workbench.verdict.power import smallest_mean_difference


def test_without_earlier_trials_the_assumptions_are_stated() -> None:
    found = shown_differences(200, ["exact_match", "loss"], None, "none")
    assert len(found) == len(DISCORDANCES) + len(SPREADS)
    assert all("assumed" in one.assumption for one in found)
    assert found[0].half_rows == 800
    assert found[-1].difference == pytest.approx(smallest_mean_difference(200, SPREADS[-1]))


def test_earlier_trials_on_the_same_rows_replace_the_assumptions(judged: Bench) -> None:
    digest = (judged.store.experiment(1).prepared or {})["evaluation_digest"]
    assert digest != EVALUATION  # the digest of the results by row is another one
    found = shown_differences(ROWS, ["exact_match", "loss"], judged.store, digest)
    assert [one.score for one in found] == ["exact_match", "loss"]
    assert all("measured on earlier trials" in one.assumption for one in found)
    other = shown_differences(ROWS, ["loss"], judged.store, "0" * 32)
    assert "assumed" in other[0].assumption


def test_a_handful_of_rows_shows_no_difference_of_answers() -> None:
    found = shown_differences(8, ["exact_match"], None, "none")
    assert found[0].difference is None
