"""Results of single rows: packed into the database, read again as they were, and foreign files."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tick_contexts import recipe
from workbench.attempts.events import EventWriter
from workbench.attempts.results_file import (
    MOST_CHARACTERS,
    ResultsHead,
    bounded_text,
    file_digest,
    questions_path,
    read_head,
    results_path,
    write_lines,
    write_results,
)
from workbench.errors import NotThere
from workbench.home import Home
from workbench.store import Reader, Store
from workbench.store.answers import read_answers
from workbench.store.ingest import ingest_events
from workbench.store.queries.metrics import read_series
from workbench.store.recovery.repair import differences_from_repair, repair_database
from workbench.store.row_results import forget_row_results, put_row_results, read_row_results
from workbench.trial import Kind

EVALUATION, TOKENS = "e" * 32, "f" * 32


def head(**changed: Any) -> ResultsHead:
    made: dict[str, Any] = {
        "evaluation": EVALUATION,
        "tokens": TOKENS,
        "step": 40,
        "scored": True,
        "targets": [3, 5, 1],
        "sums": {"loss": [0.1, 2.5, 1e-9], "token_accuracy": [3.0, 2.0, 1.0]},
        "means": {"exact_match": [1.0, None, 0.0]},
    }
    return ResultsHead(**{**made, **changed})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def store(home: Home) -> Store:
    made = Store(home.database, clock=lambda: 100.0)
    wanted = recipe()
    made.add_experiment(wanted.model_dump(mode="json"), wanted.rank_by)
    for number in (1, 2):
        made.add_trial(1, number, Kind.TUNE, {})
        made.add_attempt(number, f"cpu-{number}", {}, 1, 0)
    return made


def report(home: Home, store: Store, given: ResultsHead, **changed: Any) -> None:
    """Write results of trial 1 as its worker does, and take the event in."""
    sha256 = write_results(home.trial(1), given)
    writer = EventWriter(home.attempt(1) / "events.jsonl")
    event = {
        "evaluation": given.evaluation,
        "step": given.step,
        "scored": given.scored,
        "sha256": sha256,
    }
    writer.write("results", **{**event, **changed})
    writer.close()
    ingest_events(store, store.attempt(1), home.attempt(1) / "events.jsonl")


def warnings(store: Store) -> list[str]:
    return [event.text for event in store.events() if event.level == "warning"]


# --- the table ---


def test_results_come_back_as_they_were(store: Store, home: Home) -> None:
    put_row_results(store, 1, 1, head())
    [found] = read_row_results(Reader.open(home.database), [1, 2])
    assert (found.trial, found.step) == (1, 40)
    assert (found.evaluation, found.tokens) == (EVALUATION, TOKENS)
    assert found.targets.tolist() == [3, 5, 1]
    assert found.sums["loss"].tolist() == [0.1, 2.5, 1e-9]
    assert found.sums["token_accuracy"].tolist() == [3, 2, 1]
    np.testing.assert_array_equal(found.means["exact_match"], [1, np.nan, 0])


def test_checkpoints_that_were_compared_are_read_on_request(store: Store) -> None:
    for step in (20, 40, 60):
        put_row_results(store, 1, 1, head(step=step, scored=False, means={}))
    put_row_results(store, 1, 1, head(step=40))
    assert [found.step for found in read_row_results(store, [1])] == [40]
    found = read_row_results(store, [1], all_steps=True)
    assert [(one.step, list(one.means)) for one in found] == [
        (20, []),
        (40, ["exact_match"]),
        (60, []),
    ]


def test_losses_of_a_checkpoint_never_replace_the_scores_of_the_same_step(store: Store) -> None:
    put_row_results(store, 1, 1, head())
    put_row_results(store, 1, 1, head(scored=False, means={}))
    assert list(read_row_results(store, [1])[0].means) == ["exact_match"]


def test_a_second_scoring_replaces_the_first(store: Store) -> None:
    put_row_results(store, 1, 1, head(step=40))
    put_row_results(store, 1, 1, head(step=50))
    assert [found.step for found in read_row_results(store, [1], all_steps=True)] == [50]


def test_evaluation_sets_lie_beside_one_another(store: Store) -> None:
    put_row_results(store, 1, 1, head())
    put_row_results(store, 1, 1, head(evaluation="a" * 32))
    assert [found.evaluation for found in read_row_results(store, [1])] == ["a" * 32, EVALUATION]
    assert len(read_row_results(store, [1], EVALUATION)) == 1


def test_many_trials_are_read_at_once(store: Store) -> None:
    put_row_results(store, 2, 2, head())
    assert [found.trial for found in read_row_results(store, range(40_000))] == [2]


# --- files ---


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    assert write_results(tmp_path / "1", head()) == write_results(tmp_path / "2", head())


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_lines(tmp_path / "results" / "a.jsonl.gz", [{"loss": float("nan")}])
    assert list((tmp_path / "results").iterdir()) == []


def test_what_a_killed_worker_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "results" / ".a.jsonl.gz.1234.tmp"
    left.parent.mkdir()
    left.write_text("half a file")
    write_results(tmp_path, head())
    assert not left.exists()


def test_long_texts_are_cut_and_say_so() -> None:
    cut = bounded_text("x" * (MOST_CHARACTERS + 1))
    assert (len(cut), cut[-1]) == (MOST_CHARACTERS, "…")
    assert bounded_text("x" * MOST_CHARACTERS)[-1] == "x"


@pytest.mark.parametrize(
    "changed",
    [
        {"targets": []},
        {"targets": [3, 5]},
        {"targets": [3, 5, -1]},
        {"targets": [3, 5, True]},
        {"targets": "abc"},
        {"sums": {"token_accuracy": [1, 2, 3]}},
        {"sums": {"loss": [1, 2, None]}},
        {"sums": {"loss": [1, 2, "3"]}},
        {"sums": {"loss": [1, 2, 10**400]}},
        {"sums": [1]},
        {"means": {"../x": [1, 1, 1]}},
        {"means": {"x:max": [1, 1, 1]}},
        {"means": {f"s{n}": [1, 1, 1] for n in range(41)}},
        {"step": -1},
        {"step": 1.5},
        {"evaluation": "../../x"},
        {"tokens": None},
    ],
)
def test_what_is_no_result_of_equally_many_rows_is_refused(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    line = {"evaluation": EVALUATION, "tokens": TOKENS, "step": 1, "scored": True}
    rest = {"targets": [3, 5, 1], "sums": {"loss": [1, 2, 3]}, "means": {}}
    write_lines(tmp_path / "a.gz", [{**line, **rest, **changed}])
    with pytest.raises(ValueError):  # noqa: PT011
        read_head(tmp_path / "a.gz")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(word: str, tmp_path: Path) -> None:
    line = json.dumps({"evaluation": EVALUATION, "tokens": TOKENS, "step": 1, "targets": [1]})
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.write(f'{line[:-1]}, "sums": {{"loss": [{word}]}}, "means": {{}}}}\n')
    with pytest.raises(ValueError, match="finite"):
        read_head(tmp_path / "a.gz")


# --- events ---


def test_the_loop_stores_what_a_worker_reports(store: Store, home: Home) -> None:
    report(home, store, head())
    report(home, store, head(step=20, scored=False, means={}))
    assert [found.step for found in read_row_results(store, [1], all_steps=True)] == [20, 40]
    assert warnings(store) == []


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, replace_by_pipe, replace_by_folder])
def test_a_damaged_file_is_a_warning_and_later_lines_are_read(
    store: Store, home: Home, damage: Callable[[Path], None]
) -> None:
    sha256 = write_results(home.trial(1), head())
    damage(results_path(home.trial(1), EVALUATION))
    writer = EventWriter(home.attempt(1) / "events.jsonl")
    writer.write("results", evaluation=EVALUATION, step=40, scored=True, sha256=sha256)
    writer.write("metric", step=1, values={"loss": 1.0})
    writer.close()
    ingest_events(store, store.attempt(1), home.attempt(1) / "events.jsonl")
    assert read_row_results(store, [1]) == []
    assert len(warnings(store)) == 1
    assert read_series(store, 1, "loss")


@pytest.mark.parametrize(
    "changed",
    [{"evaluation": "../../../etc"}, {"step": "x"}, {"step": 41}, {"sha256": "0"}, {"scored": 0}],
)
def test_an_event_that_does_not_fit_its_file_stores_nothing(
    store: Store, home: Home, changed: dict[str, Any]
) -> None:
    report(home, store, head(), **changed)
    assert read_row_results(store, [1], all_steps=True) == []


def test_a_file_that_is_gone_stores_nothing_and_is_no_warning(store: Store, home: Home) -> None:
    writer = EventWriter(home.attempt(1) / "events.jsonl")
    writer.write("results", evaluation=EVALUATION, step=40, scored=True, sha256="0")
    writer.close()
    ingest_events(store, store.attempt(1), home.attempt(1) / "events.jsonl")
    assert warnings(store) == []


def test_a_file_with_other_results_than_its_name_is_a_warning(store: Store, home: Home) -> None:
    write_results(home.trial(1), head())
    other = results_path(home.trial(1), "a" * 32)
    results_path(home.trial(1), EVALUATION).rename(other)
    writer = EventWriter(home.attempt(1) / "events.jsonl")
    sha256 = file_digest(other)
    writer.write("results", evaluation="a" * 32, step=40, scored=True, sha256=sha256)
    writer.close()
    ingest_events(store, store.attempt(1), home.attempt(1) / "events.jsonl")
    assert "other results" in warnings(store)[0]


def test_a_repair_reads_them_again(store: Store, home: Home) -> None:
    report(home, store, head())
    report(home, store, head(step=20, scored=False, means={}))
    assert differences_from_repair(home) == []
    store.close()
    for path in home.root.glob("workbench.db*"):
        path.unlink()
    assert repair_database(home).counts["row_results"] == 2
    found = read_row_results(Reader.open(home.database), [1], all_steps=True)
    assert [one.step for one in found] == [20, 40]


def test_a_killed_trials_results_are_forgotten(store: Store, home: Home) -> None:
    report(home, store, head())
    forget_row_results(store, 1)
    assert read_row_results(store, [1], all_steps=True) == []


# --- texts ---

ANSWERS = [
    {"row": 0, "text": "#### 7", "extracted": "7", "right": True, "tokens": 4, "ended_by": "end"},
    {"row": 2, "text": "um", "extracted": None, "right": False, "tokens": 9, "ended_by": "length"},
]


def test_answers_are_read_with_their_questions(home: Home) -> None:
    write_results(home.trial(1), head(), ANSWERS)
    asked = [{"question": f"q{n}", "expected": f"#### {n}"} for n in range(3)]
    write_lines(questions_path(home.root, EVALUATION), asked)
    first, without, last = read_answers(home.root, 1, EVALUATION)
    assert (first.row, first.question, first.expected) == (0, "q0", "#### 0")
    assert (first.text, first.extracted, first.right) == ("#### 7", "7", True)
    assert (first.tokens, first.ended_by, first.loss_sum, first.targets) == (4, "end", 0.1, 3)
    assert (without.text, without.right, without.loss_sum) == (None, None, 2.5)
    assert (last.extracted, last.right, last.ended_by) == (None, False, "length")


def test_answers_are_read_where_the_questions_are_gone(home: Home) -> None:
    write_results(home.trial(1), head(), ANSWERS)
    assert [answer.question for answer in read_answers(home.root, 1, EVALUATION)] == ["", "", ""]


@pytest.mark.parametrize("evaluation", ["a" * 32, "../../etc/passwd"])
def test_a_trial_without_results_says_how_to_get_them(home: Home, evaluation: str) -> None:
    with pytest.raises(NotThere) as refused:
        read_answers(home.root, 1, evaluation)
    assert "workbench evaluate 1" in refused.value.hint


def test_answers_of_a_damaged_file_are_refused_with_a_hint(home: Home) -> None:
    write_results(home.trial(1), head(), ANSWERS)
    truncate(results_path(home.trial(1), EVALUATION))
    with pytest.raises(NotThere, match="cannot be read"):
        read_answers(home.root, 1, EVALUATION)
