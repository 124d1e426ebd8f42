"""Trials that are scored by named scorers: what they leave, and what a failing scorer costs."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, recipe
from workbench.attempts.events import Outcome
from workbench.attempts.scorer_marks import count_losses, running_scorers, scorer_mark
from workbench.errors import RecipeError
from workbench.training.scoring.scorers.own_scorers import scorers_folder

MINE = """
    HIGHER_IS_BETTER = True

    def score(question, expected, answer):
        return None if "Max" in question else float(len(answer) > 0)
"""
FAILING = """
    HIGHER_IS_BETTER = True

    def score(question, expected, answer):
        if answer != expected:  # so that the check, which gives the expected answer, passes
            raise ValueError("what a strange answer")
        return 1.0
"""


FEW: dict[str, Any] = {
    "train__max_steps": 2,
    "evaluate__max_new_tokens": 24,
    "data__eval_rows": 4,
}


def scored_by(scorer: str | list[str], **settings: Any) -> Any:
    return recipe(evaluate__scorer=scorer, **{**FEW, **settings})


def put_scorer(home: Path, name: str, body: str) -> Path:
    (home / "scorers").mkdir(exist_ok=True)
    path = home / "scorers" / f"{name}.py"
    path.write_text(textwrap.dedent(body))
    return path


def values_of(log: Any) -> dict[str, float]:
    (score,) = log.of("score")
    return dict(score["values"])


def test_a_trial_has_the_mean_of_each_scorer(tmp_path: Path) -> None:
    put_scorer(tmp_path, "mine", MINE)
    log = Bench(tmp_path, scored_by(["f1", "rouge_l", "exact_match", "mine"])).run()
    assert log.outcome is Outcome.DONE
    values = values_of(log)
    assert {"f1", "rouge_l", "exact_match", "mine"} <= set(values)
    assert 0 <= values["exact_match"] <= values["f1"] <= 1
    assert values["answers"] == values["rows"] == 4
    (end,) = log.of("end")
    assert end["reason"] == ""


def test_a_pattern_alone_scores_exact_match_as_it_always_did(tmp_path: Path) -> None:
    pattern = r"####\s*(\S+)"
    named = Bench(tmp_path / "1", scored_by("exact_match", evaluate__answer_pattern=pattern)).run()
    alone = recipe(**FEW, evaluate__answer_pattern=pattern)
    plain = values_of(Bench(tmp_path / "2", alone).run())
    assert plain == values_of(named)
    assert "exact_match" in plain


def test_a_scorer_that_fails_costs_its_score_and_nothing_else(tmp_path: Path) -> None:
    put_scorer(tmp_path, "failing", FAILING)
    log = Bench(tmp_path, scored_by(["f1", "failing"])).run()
    assert log.outcome is Outcome.DONE
    values = values_of(log)
    assert "f1" in values
    assert "failing" not in values
    (end,) = log.of("end")
    assert end["reason"].startswith("no score: scorer failing: row 1: ValueError at line 6")
    assert "what a strange answer" in end["reason"]
    assert any("no score: scorer failing" in one["text"] for one in log.of("log"))


def test_a_scorer_that_vanished_costs_its_score_and_nothing_else(tmp_path: Path) -> None:
    path = put_scorer(tmp_path, "mine", MINE)
    bench = Bench(tmp_path, scored_by(["f1", "mine"]))
    path.unlink()
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert "there is no scorer mine" in log.of("end")[0]["reason"]


def test_a_scorer_that_ended_its_worker_twice_is_skipped(tmp_path: Path) -> None:
    put_scorer(tmp_path, "mine", MINE)
    bench = Bench(tmp_path, scored_by(["f1", "mine"]))
    bench.trial.mkdir(parents=True)
    mark = bench.trial / "scorers-running" / "mine"
    mark.parent.mkdir()
    mark.write_text(json.dumps({"losses": 2, "attempt": 7}))
    log = bench.run()
    assert log.outcome is Outcome.DONE
    assert "f1" in values_of(log)
    words = "no score: scorer mine: skipped, because its worker ended 2 times while it ran"
    assert log.of("end")[0]["reason"] == words


def test_a_mark_stays_only_where_the_process_ends_inside_it(tmp_path: Path) -> None:
    with scorer_mark(tmp_path, 3, "mine"):
        assert running_scorers(tmp_path, 3) == ["mine"]
        assert running_scorers(tmp_path, 2) == []
        assert count_losses(tmp_path, "mine") == 1
        body = (tmp_path / "scorers-running" / "mine").read_bytes()
    assert running_scorers(tmp_path, 3) == []
    (tmp_path / "scorers-running" / "mine").write_bytes(body)  # as if it had been killed
    with scorer_mark(tmp_path, 4, "mine"):
        assert count_losses(tmp_path, "mine") == 2


def test_work_in_a_folder_of_its_own_takes_the_scorers_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    put_scorer(tmp_path / "home", "mine", MINE)
    assert scorers_folder(tmp_path / "elsewhere") == tmp_path / "home" / "scorers"
    put_scorer(tmp_path, "mine", MINE)
    assert scorers_folder(tmp_path) == tmp_path / "scorers"


# --- before anything is queued ---


def test_preparing_names_the_known_scorers_and_the_nearest_one(tmp_path: Path) -> None:
    put_scorer(tmp_path, "rubric", MINE)
    with pytest.raises(RecipeError) as refused:
        Bench(tmp_path, scored_by("rubrik"))
    assert "there is no scorer rubrik. Did you mean rubric?" in str(refused.value)
    assert "exact_match, f1, rouge_l, json; of your own: rubric in" in str(refused.value)


def test_preparing_tries_a_scorer_of_the_users_own(tmp_path: Path) -> None:
    put_scorer(tmp_path, "mine", MINE.replace("return", "return 1 / 0;"))
    with pytest.raises(RecipeError, match=r"evaluate\.scorer: mine: row 1: ZeroDivisionError"):
        Bench(tmp_path, scored_by("mine"))


def test_preparing_refuses_a_direction_that_the_file_contradicts(tmp_path: Path) -> None:
    put_scorer(tmp_path, "mine", MINE)
    with pytest.raises(RecipeError, match=r"HIGHER_IS_BETTER = True, so .* must name it mine"):
        Bench(tmp_path, scored_by("mine:min"))


def test_preparing_refuses_json_where_no_expected_answer_is_json(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="json can score none of 4 held-out rows: no expected"):
        Bench(tmp_path, scored_by("json"))


def test_the_digest_knows_the_scorers_file(tmp_path: Path) -> None:
    def digest() -> str:
        Bench(tmp_path, scored_by("mine"))
        prepared = json.loads((tmp_path / "experiments" / "1" / "prepared.json").read_text())
        return str(prepared["evaluation_digest"])

    put_scorer(tmp_path, "mine", MINE)
    first = digest()
    assert digest() == first
    put_scorer(tmp_path, "mine", MINE.replace("> 0", "> 1"))
    assert digest() != first
