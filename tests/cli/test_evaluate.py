"""`workbench evaluate`: what it takes, what it refuses, and the board that it ends in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adapters.folders import PEFT, write_adapter
from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, finished_home
from workbench.adapters.evaluation_recipe import ALL_ROWS, find_rows
from workbench.cli.trials.evaluate import parse_columns
from workbench.errors import NotThere, RecipeError, UsageError
from workbench.home import Home
from workbench.recipe import find_recipe, load_recipe
from workbench.trial_edits import scoring_recipe

SWEEP = "{parameters: {lora.rank: [4, 8]}}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home beside its base `m`, without the file that it was trained on."""
    home = finished_home(tmp_path_factory.mktemp("finished"), sweep=SWEEP)
    (home.root.parent / "d.jsonl").unlink()
    return home


@pytest.fixture
def ended(copied: None, engine: Engine, workbench: Workbench, tmp_path: Path) -> Workbench:
    """Trials 2 and 3 of experiment `tiny` have ended; there are rows in `other rows.jsonl`."""
    (tmp_path / "other rows.jsonl").write_text('{"prompt": "1+2", "completion": "#### 3"}\n')
    return workbench


def foreign(folder: Path, base: Path) -> Path:
    return write_adapter(folder, {**PEFT, "base_model_name_or_path": str(base)})


def test_a_whole_experiment_and_a_foreign_folder_stand_on_one_board(
    ended: Workbench, finished: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign(tmp_path / "a folder", finished.root.parent / "m")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    told = ended("evaluate", "tiny", "./link", "--data", "other rows.jsonl", "--watch")
    assert told.code == 0, told.err
    assert "3 adapters and the base are scored on other rows.jsonl" in told.out
    assert "scores=trial 2" in told.out
    assert "scores=link" in told.out
    assert "the base, untrained" in told.out
    assert "tiny-other rows, by exact_match" in told.out
    named = ("trial 2 of tiny", "trial 3 of tiny", "the folder link")
    assert any(f"\n{name} is best: exact match" in told.out for name in named)


def test_json_has_the_experiment_and_with_watch_its_board(ended: Workbench, tmp_path: Path) -> None:
    rows = tmp_path / "other rows.jsonl"
    told = ended("evaluate", "3", "--data", rows, "--name", "again", "--json")
    assert told.data["name"] == "again"
    assert told.data["subjects"] == [3]
    assert "the base are scored on" in told.data["answer"]
    told = ended("evaluate", "2", "--data", rows, "--watch", "--json")
    [row] = told.data["board"]
    assert row["kind"] == "score"
    assert row["settings"] == {"score.adapter": 2, "score.rows": "eval"}
    assert row["adapter"].endswith("trials/2/adapter")


def test_the_training_file_may_be_gone(ended: Workbench, finished: Home, tmp_path: Path) -> None:
    assert not (finished.root.parent / "d.jsonl").exists()
    told = ended(
        "evaluate", "2", "--data", tmp_path / "other rows.jsonl", "-s", "evaluate.max_new_tokens=9"
    )
    assert told.code == 0, told.err


REFUSED = [
    (["99"], 3, "no trial 99"),
    (["nothing"], 3, "no experiment nothing"),
    (["./nothing"], 3, "there is no folder"),
    (["1"], 2, "has no adapter of its own"),
    (["2", "-s", "lora.rank=32"], 2, "cannot be changed for an evaluation"),
    (["2", "-s", "data.colums={}"], 2, "did you mean"),
    (["2", "--columns", "question"], 2, "is not COLUMN=NAME"),
    (["2", "--answer-pattern", "("], 2, "is not a regular expression"),
]
"""Words behind `evaluate`, the exit code and what is said; they ask the engine for nothing."""


def test_what_cannot_be_scored_is_refused_at_once(ended: Workbench, tmp_path: Path) -> None:
    for words, code, says in REFUSED:
        told = ended("evaluate", *words, "--data", tmp_path / "other rows.jsonl")
        assert told.code == code, (words, told.err)
        assert says.lower() in told.err.lower(), words


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        ((), "data.eval=other.jsonl"),
        ((), "data.train=other.jsonl"),
        (("--rows", "3"), "data.eval_rows=7"),
        (("--columns", "a=prompt,b=completion"), "data.columns={c: prompt}"),
        (("--answer-pattern", "(.+)"), "evaluate.answer_pattern=(x)"),
    ],
)
def test_an_option_is_no_setting_as_well(
    ended: Workbench, tmp_path: Path, option: tuple[str, ...], setting: str
) -> None:
    rows = str(tmp_path / "other rows.jsonl")
    told = ended("evaluate", "3", "--data", rows, *option, "-s", setting)
    assert told.code == 2
    assert f"{option[0] if option else '--data'} and -s " in told.err


def test_a_mistake_of_settings_names_no_line_of_a_file() -> None:
    source = load_recipe(find_recipe("demo"))
    with pytest.raises(RecipeError) as refused:
        scoring_recipe(source, "a/b", "name", words=["evaluate.rank_by=f1"])
    assert refused.value.what.startswith("evaluate: rank_by: f1 is no score")
    assert refused.value.hint == "correct the settings named and try again"


def test_a_number_of_rows_counts_though_it_is_the_trials_own() -> None:
    source = load_recipe(find_recipe("demo"), ["data.eval_rows=7"])
    for words, rows in (((), ALL_ROWS), (["data.eval_rows=7"], 7), (["data.eval_rows=8"], 8)):
        assert scoring_recipe(source, "a/b", "name", words=words).data.eval_rows == rows
    assert scoring_recipe(source, "a/b", "task", rows=16, words=()).data.eval_rows == 16


def test_a_folder_on_another_base_is_refused_before_the_engine_is_asked(
    ended: Workbench, tmp_path: Path, home: Home
) -> None:
    (tmp_path / "m2").mkdir()
    folder = foreign(tmp_path / "other", tmp_path / "m2")
    rows = tmp_path / "other rows.jsonl"
    told = ended("evaluate", "2", folder, "--data", rows)
    assert "is to be scored on" in told.err
    assert "--same-base" in told.err
    assert ended("evaluate", "2", folder, "--data", rows, "--same-base").code == 0


def test_columns_are_read_from_one_word() -> None:
    assert parse_columns("question=prompt, answer=completion") == {
        "question": "prompt",
        "answer": "completion",
    }
    for wrong in ("question", "=prompt", "a=b,,c=d"):
        with pytest.raises(UsageError):
            parse_columns(wrong)


def test_rows_are_a_file_a_shipped_name_or_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert find_rows("a.jsonl") == find_rows("~/a.jsonl") == str(tmp_path / "a.jsonl")
    assert find_rows("workbench:demo/data/eval.jsonl") == "workbench:demo/data/eval.jsonl"
    assert find_rows("openai/gsm8k") == "openai/gsm8k"
    assert find_rows(str(tmp_path)) == str(tmp_path)
    for wrong in ("b.jsonl", "b.jsonl.zst", "./b"):
        with pytest.raises(NotThere):
            find_rows(wrong)
