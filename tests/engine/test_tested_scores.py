"""Scores on test rows stand beside the others on the board, with intervals of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.test_evaluation import SWEEP, finish
from tests.support.tick_contexts import Bench, recipe
from workbench.judging.judged_rows import BoardJudge

MakeBench = Callable[..., Bench]


def test_tested_rows_have_an_interval_and_a_note_names_them(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP), test_rows=20)
    finish(bench, id)
    board = BoardJudge().judge_experiment(bench.store, id, bench.now)
    tested = {row.trial: row for row in board.rows if row.test_score is not None}
    assert sorted(tested) == [1, 3, 4, 6]
    best = tested[4]
    assert best.test_score == pytest.approx(0.6)
    assert (best.test_low, best.test_high) == pytest.approx((0.387, 0.781), abs=1e-3)
    assert best.test_rows == 20
    [note] = [note for note in board.notes if "test rows" in note]
    assert note.startswith("exact match on 20 test rows, which chose nothing: trial 4 ")
    assert "; the base 0.000 [" in note


def test_a_board_without_tests_has_no_note(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=SWEEP))
    finish(bench, id)
    board = BoardJudge().judge_experiment(bench.store, id, bench.now)
    assert not any("test row" in note for note in board.notes)
    assert all(row.test_score is None for row in board.rows)
