"""The comparison of trials: their settings, paired differences, and the rows they disagree on."""

from __future__ import annotations

import math
import shutil

import pytest

from tests.judging.conftest import RIGHT, ROWS
from tests.support.row_results import (
    EVALUATION,
    TARGETS,
    TOKENS,
    made_up_answers,
    made_up_losses,
    put_rows,
)
from tests.support.tick_contexts import Bench, recipe
from workbench.attempts.results_file import (
    ResultsHead,
    questions_path,
    write_lines,
    write_results,
)
from workbench.cli.trials.compare import answer_words
from workbench.errors import NotThere, UsageError
from workbench.judging.comparison import (
    NOT_ALIKE,
    Comparison,
    compare_trials,
    differing_settings,
    flat_settings,
)
from workbench.trial import Kind


def _write_files(bench: Bench, *, answered: bool = True) -> None:
    """Write the files of answers that belong to the judged bench's rows, or of losses alone."""
    home = bench.context.home
    asked = ({"question": f"question {n}", "expected": f"{n}"} for n in range(ROWS))
    write_lines(questions_path(home.root, EVALUATION), asked)
    for trial, right in RIGHT.items():
        judged = made_up_answers(right, ROWS, seed=trial)
        losses = made_up_losses(1.0, ROWS, seed=trial)
        head = ResultsHead(
            evaluation=EVALUATION,
            tokens=TOKENS,
            step=1,
            scored=True,
            targets=[TARGETS] * ROWS,
            sums={"loss": [loss * TARGETS for loss in losses]},
            means={"exact_match": [float(one) for one in judged]} if answered else {},
        )
        lines = (
            {
                "row": n,
                "text": f"it is {n if ok else -n}" if answered else None,
                "extracted": str(n if ok else -n) if answered else None,
                "right": ok if answered else None,
                "tokens": 4,
                "ended_by": "end",
            }
            for n, ok in enumerate(judged)
        )
        write_results(home.trial(trial), head, lines)


def _compare(bench: Bench, *ids: int) -> Comparison:
    return compare_trials(bench.store, bench.context.home.root, ids)


def test_differences_are_those_of_the_second_from_the_first_on_the_same_rows(judged: Bench) -> None:
    _write_files(judged)
    found = _compare(judged, 5, 4)
    assert found.settings == {"train.learning_rate": [0.04, 0.03]}
    first = found.scores[0]
    assert first.name == "exact_match"
    assert first.values == pytest.approx([80 / ROWS, 78 / ROWS])
    assert first.differences[0] is None
    assert first.differences[1] is not None
    assert first.differences[1].difference == pytest.approx(-2 / ROWS)
    assert first.differences[1].low < -2 / ROWS < first.differences[1].high
    assert {score.name for score in found.scores} == {"exact_match", "loss"}


def test_rows_on_which_one_is_right_and_the_other_wrong_come_first(judged: Bench) -> None:
    _write_files(judged)
    found = _compare(judged, 5, 4)
    one, other = (made_up_answers(RIGHT[t], ROWS, seed=t) for t in (5, 4))
    expected = sum(a != b for a, b in zip(one, other, strict=True))
    assert 0 < expected == found.disagreements
    assert all(row.disagrees for row in found.rows[:expected])
    assert not any(row.disagrees for row in found.rows[expected:])
    assert len(found.rows) == ROWS
    assert found.rows_words == f"they disagree on {expected} of {ROWS} rows"
    row = found.rows[0]
    assert row.question == f"question {row.row}"
    assert row.expected == str(row.row)
    assert {answer.right for answer in row.answers} == {True, False}
    gaps = [row.loss_gap for row in found.rows[expected:]]
    assert gaps == sorted(gaps, reverse=True)


def test_rows_with_losses_alone_are_no_agreement(judged: Bench) -> None:
    _write_files(judged, answered=False)
    found = _compare(judged, 5, 4)
    assert "disagree" not in found.rows_words
    assert answer_words(found.rows[0].answers[0]) == "(no answer was generated)"
    gaps = [row.loss_gap for row in found.rows]
    assert gaps == sorted(gaps, reverse=True)


def test_three_trials_and_the_base_are_compared_with_the_first(judged: Bench) -> None:
    _write_files(judged)
    found = _compare(judged, 5, 4, 3, 1)
    assert [len(score.differences) for score in found.scores] == [4, 4]
    assert found.settings["train.learning_rate"] == [0.04, 0.03, 0.02, None]


def test_a_trial_scored_on_other_rows_leaves_the_settings(judged: Bench) -> None:
    put_rows(
        judged.store, 4, losses=made_up_losses(1.0, ROWS, seed=4), evaluation="f" * 32, step=99
    )
    judged.store.db.execute(
        "delete from row_results where trial = 4 and evaluation = ?", (EVALUATION,)
    )
    found = _compare(judged, 5, 4)
    assert found.settings
    assert (found.scores, found.rows) == ([], [])
    assert found.notes == [NOT_ALIKE]


def test_losses_on_other_rows_stand_in_no_table_of_curves(judged: Bench) -> None:
    judged.store.db.execute("delete from row_results where trial = 4")
    other = judged.submit(recipe(name="other"))
    (trial,) = [one.id for one in judged.store.trials(other) if one.kind is Kind.TUNE]
    for one in (5, 4, trial):
        for step in (101, 102):
            row = (one, "eval_loss", step, 1.0)
            judged.store.db.execute("insert into metrics values (?, ?, ?, ?)", row)
    assert _compare(judged, 5, 4).curves.keys() == {5, 4}  # of one experiment: the same rows
    assert _compare(judged, 5, trial).curves == {}


def test_lost_answer_files_leave_the_scores_and_say_so(judged: Bench) -> None:
    shutil.rmtree(judged.context.home.trial(5) / "results", ignore_errors=True)
    found = _compare(judged, 5, 4)
    assert found.scores
    assert found.rows == []
    assert any("results of trial" in note for note in found.notes)


def test_a_row_without_a_loss_has_no_gap(judged: Bench) -> None:
    _write_files(judged)
    assert all(math.isfinite(row.loss_gap) for row in _compare(judged, 5, 4).rows)


def test_too_few_or_unknown_trials_are_refused(judged: Bench) -> None:
    with pytest.raises(UsageError, match="at least two"):
        _compare(judged, 5, 5)
    with pytest.raises(NotThere):
        _compare(judged, 5, 999)


def test_settings_that_differ_are_found_in_every_part_of_a_recipe() -> None:
    one = flat_settings({"model": {"name": "a"}, "data": {"columns": {"q": "prompt"}}})
    other = flat_settings({"model": {"name": "a"}, "data": {"columns": {"q": "text"}}})
    assert one == {"model.name": "a", "data.columns": {"q": "prompt"}}
    assert differing_settings([one, other]) == {"data.columns": [{"q": "prompt"}, {"q": "text"}]}
