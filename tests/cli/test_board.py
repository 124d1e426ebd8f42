"""The board on the command line: intervals, ties, the verdict, and its forms for other programs."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli.conftest import Workbench
from tests.support.row_results import made_up_answers, made_up_losses, put_rows
from tests.support.tick_contexts import Bench, recipe
from workbench.cli.tables import count_cells
from workbench.trial import State

ROWS = 96
RIGHT = {1: 3, 2: 40, 3: 78, 4: 80}
RATES = {"parameters": {"train.learning_rate": [0.01, 0.02, 0.04]}}
VERDICT = "trial 4 is best: exact match 0.83 ["


@pytest.fixture
def swept(bench: Bench) -> Bench:
    """Experiment 1: the base (trial 1), and trials 2 to 4; the last two cannot be told apart."""
    id = bench.submit(recipe(sweep=RATES))
    while bench.store.experiment(id).ended_utc is None:
        bench.ticks()
    for trial, right in RIGHT.items():
        query = "update scores set value = ? where trial = ? and name = 'exact_match'"
        bench.store.db.execute(query, (right / ROWS, trial))
        losses = made_up_losses(1.0, ROWS, seed=trial)
        put_rows(bench.store, trial, losses=losses, right=made_up_answers(right, ROWS, trial))
    return bench


def test_one_trial_with_long_settings_costs_no_interval(swept: Bench, workbench: Workbench) -> None:
    settings = {"train.learning_rate": 0.04, "lora.dropout": 0.1, "train.weight_decay": 0.012345}
    query = "update trials set settings = ? where id = 2"
    swept.store.db.execute(query, (json.dumps(settings),))
    lines = workbench("board").out.splitlines()
    assert "95 %" in lines[1]
    assert "vs best" in lines[1]
    assert all(count_cells(line) <= 80 for line in lines[:6])
    assert any(line.endswith("…") for line in lines[2:6])


def test_the_newest_that_is_not_archived_is_shown(swept: Bench, workbench: Workbench) -> None:
    other = swept.submit(recipe(name="other"))
    while swept.store.experiment(other).ended_utc is None:
        swept.ticks()
    assert workbench("board").out.startswith("other, by")
    assert workbench("archive", "other").code == 0
    assert workbench("board").out.startswith("tiny, by")
    assert workbench("archive", "tiny").code == 0
    assert workbench("board").out.startswith("other, by")


def test_a_terminal_of_80_columns_shows_intervals_differences_and_ties(
    swept: Bench, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = workbench("board").out.splitlines()
    heads, best, second, third = lines[1:5]
    assert heads.split() == [
        "rank",
        "trial",
        "state",
        "score",
        "95",
        "%",
        "vs",
        "base",
        "vs",
        "best",
        "settings",
    ]
    assert best.split()[:5] == ["=1", "4", "done", "0.833*", "0.746–0.895"]
    assert second.split()[:6] == ["=1", "3", "done", "0.812", "0.723–0.878", "+0.781"]
    assert second.split()[6] == "-0.021"
    assert third.split()[0] == "3"
    assert best.endswith("lr=0.04")
    assert all(count_cells(line) <= 80 for line in lines[:6])


def test_the_marks_of_the_board_are_explained_below_it(swept: Bench, workbench: Workbench) -> None:
    out = workbench("board").out
    assert "=1  tied for first" in out
    assert "*   optimistic by about 0.0" in out


def test_a_leader_that_no_trial_ties_with_is_not_tied_for_first(
    swept: Bench, workbench: Workbench
) -> None:
    assert "; tied for first" in workbench("show", "4").out
    put_rows(
        swept.store,
        3,
        losses=made_up_losses(1.0, ROWS, seed=3),
        right=made_up_answers(30, ROWS, 3),
    )
    query = "update scores set value = ? where trial = 3 and name = 'exact_match'"
    swept.store.db.execute(query, (30 / ROWS,))
    out = workbench("show", "4").out
    assert "  verdict     trial 4: exact_match 0.833 [" in out
    assert "tied for first" not in out


def test_the_last_line_is_the_verdict(swept: Bench, workbench: Workbench) -> None:
    last = workbench("board").out.splitlines()[-1]
    assert last.startswith(VERDICT)
    assert "tied with trial 3" in last
    assert "its learning rate is at the edge of the list: widen it" in last


def test_a_wide_terminal_shows_the_intervals_of_differences_too(
    swept: Bench, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    second = workbench("board").out.splitlines()[3]
    assert "+0.781 [+0.6" in second
    assert "-0.021 [-0." in second


def test_the_json_has_the_numbers_behind_the_verdict(swept: Bench, workbench: Workbench) -> None:
    best, second, third = workbench("board", "--json").data
    assert best["verdict"].startswith(VERDICT)
    assert (second["verdict"], third["verdict"]) == (None, None)
    assert [row["tied_for_first"] for row in (best, second, third)] == [True, True, False]
    assert best["vs_leader"] is None
    assert second["vs_leader"].keys() == {"difference", "low", "high", "p"}
    assert second["vs_leader"]["difference"] == pytest.approx(-2 / ROWS)
    assert third["vs_base"]["p"] < 0.001
    assert best["score_low"] < best["score"] < best["score_high"]


def test_csv_has_all_digits_a_line_for_each_trial_and_the_base_last(
    swept: Bench, workbench: Workbench
) -> None:
    said = workbench("board", "--csv")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["trial"] for row in rows] == ["4", "3", "2", "1"]
    assert float(rows[0]["score"]) == 80 / ROWS
    assert rows[0]["train.learning_rate"] == "0.04"
    assert float(rows[1]["vs_leader_difference"]) == pytest.approx(-2 / ROWS)
    assert rows[0]["vs_leader_p"] == ""
    assert said.err.strip().startswith(VERDICT)


def test_csv_cells_from_elsewhere_are_no_formulas(swept: Bench, workbench: Workbench) -> None:
    swept.store.db.execute("update trials set reason = '=HYPERLINK(\"http://evil\")' where id = 2")
    rows = list(csv.DictReader(io.StringIO(workbench("board", "--csv").out)))
    assert rows[2]["reason"].startswith("'=HYPERLINK")


def test_markdown_is_a_table_with_the_verdict_as_its_last_line(
    swept: Bench, workbench: Workbench
) -> None:
    lines = workbench("board", "--markdown").out.splitlines()
    table = [line for line in lines if line.startswith("| ")]
    assert len(table) == 6
    assert {line.count(" | ") for line in table} == {7}
    assert lines[-1].startswith(f"**{VERDICT[:-1]}")
    assert lines[-2] == ""


def test_markdown_from_elsewhere_is_text(swept: Bench, workbench: Workbench) -> None:
    swept.store.db.execute("update experiments set name = 'a|b <img src=x> [c](d)'")
    out = workbench("board", "--markdown").out
    assert r"a\|b \<img src=x\> \[c\](d)" in out


def test_the_forms_of_the_board_exclude_each_other(swept: Bench, workbench: Workbench) -> None:
    said = workbench("board", "--csv", "--json")
    assert (said.code, said.out) == (2, "")
    assert "exclude each other" in said.err


def test_the_help_says_where_each_form_has_its_verdict(workbench: Workbench) -> None:
    out = workbench("board", "--help").out
    assert "The verdict goes to stderr" in out
    assert "Its last line is the verdict" in out


def test_a_page_of_a_trial_has_its_claims(swept: Bench, workbench: Workbench) -> None:
    out = workbench("show", "3").out
    assert "trial 3: exact_match 0.812 [0.723–0.878], 96 rows; vs base +0.781" in out
    assert workbench("show", "3", "--json").data["board"]["tied_for_first"] is True


def test_a_board_of_which_a_score_is_missing_says_why(swept: Bench, workbench: Workbench) -> None:
    swept.store.db.execute("delete from scores where trial = 2 and name = 'exact_match'")
    out = workbench("board").out
    assert "trial 2: no held-out row has an answer that matches evaluate.answer_pattern" in out
    assert workbench("board", "--json").data[2]["score_note"].startswith("no held-out row")


def test_intervals_of_few_rows_are_marked_approximate(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(evaluate={}))
    bench.until(State.DONE, 2)
    put_rows(bench.store, 2, losses=made_up_losses(1.0, 16, seed=2))
    out = workbench("board").out
    assert "  ~0." in out
    assert "~   approximate: with few rows" in out


def test_the_step_of_the_kept_weights_shows_where_trials_differ_in_it(
    swept: Bench, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert " step " not in workbench("board").out.splitlines()[1]
    for table in ("scores", "row_results"):
        swept.store.db.execute(f"update {table} set step = 75 where trial = 4")
    lines = workbench("board").out.splitlines()
    assert " step " in lines[1]
    assert " 75 " in next(line for line in lines if line.split()[:2] == ["=1", "4"])


def test_above_zero_is_better_than_the_base_for_a_loss_too(
    bench: Bench, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    id = bench.submit(recipe(evaluate={}, sweep={"parameters": {"train.seed": [1, 2]}}))
    while bench.store.experiment(id).ended_utc is None:
        bench.ticks()
    for trial, loss in {1: 1.5, 2: 1.0, 3: 2.0}.items():
        query = "update scores set value = ? where trial = ? and name = 'loss'"
        bench.store.db.execute(query, (loss, trial))
        put_rows(bench.store, trial, losses=made_up_losses(loss, ROWS, seed=trial))
    better, worse, *_ = workbench("board").out.splitlines()[2:]
    assert (better.split()[1], worse.split()[1]) == ("2", "3")
    assert " +0.500" in better
    assert " -0.500" in worse
    assert "loss 1.000 (+0.500 against the base)" in workbench("show", "2").out
    assert "loss 2.000 (-0.500 against the base)" in workbench("show", "3").out
    rows = {row["trial"]: row for row in workbench("board", "--json").data}
    assert rows[2]["vs_base"]["difference"] == pytest.approx(-0.5)  # its own score minus the other
    assert rows[2]["gain"] == pytest.approx(0.5)


def test_a_base_that_is_scored_first_is_not_called_one_of_an_older_build(
    bench: Bench, workbench: Workbench
) -> None:
    bench.submit(recipe(train={"max_steps": 900, "learning_rate": 0.1}))
    bench.until(State.DONE, 1)
    put_rows(bench.store, 1, losses=made_up_losses(1.5, ROWS, seed=1))
    said = workbench("board")
    assert "no verdict yet: no trial has a score" in said.out
    assert "older build" not in said.out + said.err


def test_counts_among_the_scores_have_no_decimals(swept: Bench, workbench: Workbench) -> None:
    swept.store.db.execute(
        "insert into scores select trial, 'rows', 96, step, attempt from scores"
        " where trial = 3 and name = 'loss'"
    )
    (scores,) = [line for line in workbench("show", "3").out.splitlines() if "  scores " in line]
    assert "exact_match 0.812 (+0.781 against the base), " in scores
    assert ", rows 96" in scores
    assert "rows 96.0" not in scores


def test_a_board_without_trials_says_why(bench: Bench, workbench: Workbench) -> None:
    bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    assert workbench("board").out == "tiny has no trials: it is preparing\n"
    bench.store.mark_refused(1, "no rows in train", "name a file")
    assert workbench("board").out == "tiny has no trials: no rows in train\n"
    assert workbench("board", "--json").data == []
