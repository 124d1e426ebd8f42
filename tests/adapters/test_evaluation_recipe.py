"""The recipe of an evaluation: the trials' own, with other rows and nothing to train."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.adapters.folders import PEFT, write_adapter
from workbench.adapters.adapter_folder import read_adapter
from workbench.adapters.evaluation_hints import for_evaluate
from workbench.adapters.evaluation_recipe import ALL_ROWS, evaluation_recipe, folder_recipe
from workbench.errors import UsageError
from workbench.recipe import find_recipe, load_recipe, to_yaml

ROWS = "/somewhere/rows.jsonl"


def test_all_rows_of_the_file_are_scored_and_no_others() -> None:
    source = load_recipe(find_recipe("demo"), ["data.test_rows=9"])
    made = evaluation_recipe(source, ROWS, name="demo-rows")
    assert (made.data.eval, made.data.eval_rows) == (ROWS, ALL_ROWS)
    assert (made.data.test_rows, made.data.test, made.sweep) == (None, None, None)
    assert made.data.columns == source.data.columns
    assert made.rank_by == source.rank_by == "exact_match"
    assert evaluation_recipe(source, ROWS, name="few", rows=7).data.eval_rows == 7


def test_what_was_resolved_for_the_trials_holds_and_a_person_may_change_it() -> None:
    source = load_recipe(find_recipe("demo"))
    resolved = {"model.precision": "bf16", "evaluate.batch_size": 3}
    made = evaluation_recipe(source, ROWS, name="a", resolved=resolved)
    assert (made.model.precision, made.evaluate.batch_size) == ("bf16", 3)
    changed = {"model.precision": "fp32", "evaluate.answer_pattern": "x"}
    made = evaluation_recipe(source, ROWS, name="a", resolved=resolved, settings=changed)
    assert (made.model.precision, made.evaluate.answer_pattern) == ("fp32", "x")


def test_settings_of_training_are_refused() -> None:
    source = load_recipe(find_recipe("demo"))
    with pytest.raises(UsageError, match=r"lora\.rank cannot be changed for an evaluation"):
        evaluation_recipe(source, ROWS, name="a", settings={"lora.rank": 4})


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("write data.columns: {question: prompt, a: b}", "--columns question=prompt,a=b"),
        ("did you mean x? Map it: data.columns: {x: text}", "did you mean x? --columns x=text"),
        ("name the shape's columns in data.columns, e.g. {a: b}", "by --columns, e.g. {a: b}"),
        ("the file is empty; check data.train and data.eval", "the file is empty; check --data"),
        ("check the path in data.train and data.eval", "check the path --data"),
        ('write it as {"type": "text"}, or take it out', "or take it out"),
        ("write data.columns: {a b: prompt}", "--columns 'a b=prompt'"),
        (
            "set evaluate.answer_pattern: '#### (.+)', or take it out",
            "--answer-pattern '#### (.+)', or -s evaluate.answer_pattern=null",
        ),
        ('write data.columns: {" q ": prompt}', 'write data.columns: {" q ": prompt}'),
    ],
)
def test_hints_name_the_options_of_the_command(hint: str, said: str) -> None:
    assert said in for_evaluate(hint)


def test_a_board_by_a_sweeps_objective_keeps_its_score_without_the_sweep() -> None:
    source = load_recipe(find_recipe("demo"), ["sweep.objective=loss"])
    assert evaluation_recipe(source, ROWS, name="a").rank_by == "loss"


def test_a_foreign_folder_alone_is_scored_on_the_base_that_it_names(tmp_path: Path) -> None:
    found = read_adapter(write_adapter(tmp_path / "mine", PEFT))
    made = folder_recipe(found, ROWS)
    assert made.model.name == PEFT["base_model_name_or_path"]
    assert made.name == "mine"
    other = folder_recipe(found, ROWS, base="meta-llama/Meta-Llama-3-8B-Instruct")
    assert other.model.name == "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.mark.parametrize("base", ["", "/gone/model", "./model"])
def test_a_folder_whose_base_is_not_here_asks_for_its_name(tmp_path: Path, base: str) -> None:
    config = {**PEFT, "base_model_name_or_path": base}
    found = read_adapter(write_adapter(tmp_path, config))
    with pytest.raises(UsageError) as refused:
        folder_recipe(found, ROWS)
    assert "-s model.name=NAME" in refused.value.hint


def test_a_folder_of_the_workbench_brings_its_own_recipe(tmp_path: Path) -> None:
    source = load_recipe(find_recipe("demo")).model_copy(update={"sweep": None})
    config = {**PEFT, "base_model_name_or_path": source.model.name}
    folder = write_adapter(tmp_path / "mine", config)
    (folder / "recipe.yaml").write_text(to_yaml(source))
    assert folder_recipe(read_adapter(folder), ROWS).evaluate == source.evaluate
    (folder / "recipe.yaml").write_text("model: {name: [")
    shutil.copytree(folder, tmp_path / "broken")
    with pytest.raises(UsageError):
        folder_recipe(read_adapter(tmp_path / "broken"), ROWS, base="/gone/model")
