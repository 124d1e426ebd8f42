"""Corrections for many comparisons where only the best of many trials are compared."""

from __future__ import annotations

import numpy as np

from workbench.verdict.board import judge_board
from workbench.verdict.comparisons import holm_rejects
from workbench.verdict.types import BoardVerdict, RowResults

ROWS = 100


def results(trial: int, right: int) -> RowResults:
    answers = np.arange(ROWS) < right
    return RowResults(
        trial=trial,
        evaluation="e",
        tokens="t",
        step=1,
        targets=np.ones(ROWS, dtype=np.int64),
        means={"exact_match": answers.astype(np.float64)},
    )


def judge(family: int) -> BoardVerdict:
    two = [results(1, 90), results(2, 78)]
    return judge_board(two, None, "exact_match", higher_is_better=True, family=family)


def test_trials_that_were_not_compared_count_in_the_corrections() -> None:
    alone, of_many = judge(family=2), judge(family=10_000)
    assert alone.trials[1].better_than == {2}
    assert not alone.trials[2].tied_for_first
    assert of_many.trials[1].better_than == frozenset()
    assert of_many.trials[2].tied_for_first


def test_a_smaller_family_changes_nothing() -> None:
    p_KK = np.array([[1.0, 0.01, 0.02], [0.01, 1.0, 0.9], [0.02, 0.9, 1.0]])
    assert np.array_equal(holm_rejects(p_KK), holm_rejects(p_KK, family=2))
    assert holm_rejects(p_KK)[0, 1]
    assert not holm_rejects(p_KK, family=10)[0, 1]
