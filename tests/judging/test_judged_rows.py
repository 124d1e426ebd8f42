"""The judged board: what the results by row add to the ranking, and what it says without them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from tests.judging.conftest import RIGHT, ROWS
from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.support.tick_contexts import Bench, recipe
from workbench.judging import board_words, judged_rows
from workbench.judging.judged_rows import BoardJudge
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.trial import Kind, State


def board_of(bench: Bench) -> JudgedBoard:
    return BoardJudge().judge_experiment(bench.store, 1, bench.now)


def row_of(board: JudgedBoard, trial: int) -> BoardRow:
    return next(row for row in board.rows if row.trial == trial)


def test_each_score_has_its_interval_and_its_differences(judged: Bench) -> None:
    board = board_of(judged)
    for row in board.rows:
        assert row.score == pytest.approx(RIGHT[row.trial] / ROWS)
        assert row.score_low is not None
        assert row.score_high is not None
        assert row.score_low < row.score < row.score_high  # type: ignore[operator]
        assert row.score_rows == ROWS
    second = row_of(board, 4)
    assert second.vs_base is not None
    assert second.vs_base.difference == pytest.approx((78 - 3) / ROWS)
    assert second.vs_leader is not None
    assert second.vs_leader.difference == pytest.approx((78 - 80) / ROWS)
    assert second.vs_leader.low < second.vs_leader.difference < second.vs_leader.high
    assert 0 < second.vs_leader.p <= 1


def test_those_who_cannot_be_told_from_the_best_are_tied_for_first(judged: Bench) -> None:
    tied = {row.trial: row.tied_for_first for row in board_of(judged).rows}
    assert tied == {5: True, 4: True, 3: False, 2: False, 1: None}


def test_the_leader_alone_is_marked_optimistic(judged: Bench) -> None:
    marked = {row.trial: row.optimism for row in board_of(judged).rows if row.optimism is not None}
    assert marked.keys() == {5}
    assert 0 < marked[5] < 0.1


def test_checkpoints_that_were_compared_raise_the_optimism(judged: Bench) -> None:
    before = row_of(board_of(judged), 5).optimism
    for step in range(1, 5):
        put_rows(
            judged.store,
            5,
            losses=made_up_losses(1.0, ROWS, seed=step),
            right=made_up_answers(80, ROWS, seed=50 + step),
            step=step,
            scored=False,
        )
    after = row_of(board_of(judged), 5).optimism
    assert before is not None
    assert after is not None
    assert after > before


def test_the_keys_of_the_json_are_the_documented_ones(judged: Bench) -> None:
    data = asdict(board_of(judged).rows[1])
    assert data.keys() >= {"score_low", "score_high", "tied_for_first", "vs_base", "vs_leader"}
    assert data["vs_base"].keys() == data["vs_leader"].keys() == {"difference", "low", "high", "p"}


def test_the_verdict_names_the_best_and_its_ties(judged: Bench) -> None:
    verdict = board_of(judged).verdict
    assert verdict.startswith("trial 5 is best: exact match 0.83 [")
    assert "tied with trial 4" in verdict
    assert "its learning rate is at the edge of the list: widen it" in verdict


def test_a_board_without_results_by_row_is_ranked_and_says_why_it_has_no_intervals(
    swept: Bench,
) -> None:
    board = board_of(swept)
    assert [row.trial for row in board.rows] == [5, 4, 3, 2, 1]
    for row in board.rows:
        assert (row.score_low, row.vs_base, row.tied_for_first, row.optimism) == (None,) * 4
        # The base alone is also without a verdict before the first trial has its score.
        assert row.score_note == ("" if row.kind == "base" else judged_rows.NO_ROWS)
    assert board.verdict == f"trial 5 has the best score, exact_match 0.833; {judged_rows.NO_ROWS}"


def test_results_of_weights_that_are_not_the_scored_ones_give_no_interval(swept: Bench) -> None:
    put_rows(swept.store, 5, losses=[1.0] * ROWS, right=[True] * ROWS, step=999)
    assert row_of(board_of(swept), 5).score_low is None


def test_an_experiment_that_goes_on_has_its_verdict_so_far(bench: Bench) -> None:
    rates = {"train.learning_rate": [0.01, 0.05]}
    bench.submit(recipe(sweep={"parameters": rates, "max_parallel": 1}))
    assert board_of(bench).verdict == "no verdict yet: no trial has a score"
    assert [row.score_note for row in board_of(bench).rows] == ["", "", ""]
    bench.until(State.DONE, 2)
    assert board_of(bench).verdict.startswith("so far, trial 2 is the only one with a score")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("delete from scores where trial = 5 and name = 'exact_match'", judged_rows.NO_MATCH),
        ("delete from scores where trial = 5", "it left no exact_match"),
        ("update scores set value = null where trial = 5", "its exact_match is not a number"),
        ("update trials set reason = 'stopped by you' where id = 5", "stopped by you"),
    ],
)
def test_a_missing_score_has_its_reason(judged: Bench, change: str, note: str) -> None:
    judged.store.db.execute("delete from row_results where trial = 5")
    if "reason" in change:
        judged.store.db.execute("delete from scores where trial = 5")
    judged.store.db.execute(change)
    assert row_of(board_of(judged), 5).score_note == note


def test_what_is_unchanged_is_judged_once(judged: Bench) -> None:
    judge = BoardJudge()
    first = judge.judge_experiment(judged.store, 1, judged.now)
    verdict = judge._verdict
    judged.store.db.execute("insert into metrics values (5, 'loss', 99, 1.0)")
    assert judge.judge_experiment(judged.store, 1, judged.now) == first
    assert judge._verdict is verdict
    put_rows(judged.store, 4, losses=[1.0] * ROWS, right=[True] * ROWS)
    judged.store.db.execute("update row_results set attempt = 1 where trial = 4")
    assert judge.judge_experiment(judged.store, 1, judged.now) != first
    assert judge._verdict is not verdict


def test_scoring_on_test_rows_is_no_row_of_the_board(judged: Bench) -> None:
    for rows, listed in (("test", 5), ("eval", 6)):
        judged.store.add_trial(
            1, judged.store.next_number(1), Kind.SCORE, {"score.adapter": 5, "score.rows": rows}
        )
        assert len(board_of(judged).rows) == listed


def test_of_very_many_trials_only_the_best_are_compared(
    judged: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged_rows, "MOST_JUDGED", 2)
    rows = {row.trial: row for row in board_of(judged).rows}
    assert rows[4].score_low is not None
    assert rows[1].score_low is not None
    assert (rows[3].score_low, rows[3].score_note) == (None, judged_rows.NOT_COMPARED)


def test_a_trial_that_lost_one_of_its_scores_says_why_below_the_board(judged: Bench) -> None:
    why = "no score: scorer rubric: it printed more than 1,048,576 bytes"
    judged.store.db.execute("update trials set reason = ? where id in (4, 5)", (why,))
    assert f"trials 4 and 5: {why}" in list(board_words.footnotes(board_of(judged)))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([3], "trial 3"),
        ([6, 7], "trials 6 and 7"),
        ([3, 4, 5], "trials 3 to 5"),
        ([3, 4, 5, 9], "trials 3 to 5 and 9"),
        ([1, 3, 4, 6, 7, 8], "trials 1, 3, 4 and 6 to 8"),
    ],
)
def test_ids_are_listed_as_a_person_would(ids: list[int], words: str) -> None:
    assert board_words.id_ranges(ids) == words


def test_a_tiny_optimism_is_less_than_what_can_be_shown(judged: Bench) -> None:
    board = board_of(judged)
    rows = [replace(row, optimism=1e-5 if row.rank == 1 else None) for row in board.rows]
    notes = list(board_words.mark_notes(replace(board, rows=rows)))
    assert "*   optimistic by less than 0.001, because it was chosen on the same rows" in notes


def test_a_front_end_that_shows_no_board_imports_no_numpy(judged: Bench) -> None:

    code = f"""
import sys
from pathlib import Path
from workbench.home import Home
from workbench.service import Service
service = Service(Home(Path({str(judged.context.home.root)!r})))
service.snapshot()
assert "numpy" not in sys.modules
assert service.verdict(1).startswith("trial 5 is best")
assert "numpy" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
