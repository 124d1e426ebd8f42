"""Scores of lm-evaluation-harness whose metric has no value by row, but a standard error."""

from __future__ import annotations

import pytest

from tests.support.tick_contexts import Bench
from workbench.judging.judged_rows import HARNESS_ERROR, BoardJudge, error_name


def test_the_harness_s_standard_error_is_shown_as_the_interval(swept: Bench) -> None:
    attempt = swept.store.attempts(2)[-1].id
    swept.store.db.execute(
        "insert into scores select 2, ?, 0.05, step, ? from scores "
        "where trial = 2 and name = 'exact_match'",
        ("exact_match_stderr", attempt),
    )
    board = BoardJudge().judge_experiment(swept.store, 1, swept.now)
    (row,) = (one for one in board.rows if one.trial == 2)
    assert row.score is not None
    assert row.score_low == pytest.approx(row.score - 1.96 * 0.05, abs=1e-4)
    assert row.score_high == pytest.approx(row.score + 1.96 * 0.05, abs=1e-4)
    assert row.score_note == HARNESS_ERROR
    assert [one.trial for one in board.rows if one.score_low is not None] == [2]


def test_a_score_and_its_error_share_the_name_without_the_direction() -> None:
    assert error_name("wiki_word_perplexity:min") == "wiki_word_perplexity_stderr"
