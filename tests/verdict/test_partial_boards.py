"""Boards on which not everybody can be compared, and scores that are equal in every row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.verdict.board import judge_board
from workbench.verdict.intervals import wilson_interval
from workbench.verdict.types import RowResults
from workbench.verdict.words import describe_verdict

ROWS = 40


def answers(trial: int, right: int, evaluation: str = "rows") -> RowResults:
    """Return results of which the first `right` rows are right."""
    return RowResults(
        trial=trial,
        evaluation=evaluation,
        tokens="tokens",
        step=1,
        targets=np.full(ROWS, 3),
        means={"exact_match": (np.arange(ROWS) < right).astype(np.float64)},
    )


def words(*results: RowResults) -> str:
    verdict = judge_board(results, None, "exact_match", higher_is_better=True)
    return describe_verdict(verdict, {one.trial: {} for one in results})


def test_a_trial_on_other_rows_is_not_counted_among_those_that_were_beaten() -> None:
    said = words(answers(1, 36), answers(2, 4), answers(3, 12, "other rows"))
    assert "trial 1 is best" in said
    assert "better than the other;" in said
    assert "1 not compared" in said


def test_a_trial_on_other_rows_is_not_tied_for_first() -> None:
    said = words(answers(1, 21), answers(2, 20), answers(3, 12, "other rows"))
    assert "no trial stands out: both are tied for first" in said
    assert "1 not compared" in said


def test_a_leader_with_nobody_on_its_rows_is_not_called_best() -> None:
    said = words(answers(1, 36), answers(3, 12, "other rows"))
    assert said.startswith("trial 1 has the best exact match 0.90")
    assert "no other trial has the same rows" in said
    assert "is best" not in said
    assert "row noise" not in said


@pytest.mark.parametrize("right", [3, 0])
def test_a_token_accuracy_that_is_equal_in_every_row_has_an_interval_with_width(
    right: int,
) -> None:
    result = replace(
        answers(1, 1), means={}, sums={"token_accuracy": np.full(ROWS, right, dtype=np.float64)}
    )
    score = judge_board([result], None, "token_accuracy", higher_is_better=True).trials[1].score
    assert (score.low, score.high) == pytest.approx(wilson_interval(right / 3 * ROWS, ROWS))
    assert score.high - score.low > 0.05
