"""Overrides from the command line take the schema's types."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import RecipeError
from workbench.recipe import Recipe, read_recipe

SMALL = """\
name: small
model: {name: acme/tiny}
data: {train: acme/rows}
lora: {rank: 16}
sweep:
  parameters:
    lora.rank: [4, 8]
"""


def read(*overrides: str) -> Recipe:
    return read_recipe(SMALL, folder=Path("/nowhere"), overrides=overrides)


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as refused:
        read(*overrides)
    return refused.value.what.splitlines()


def test_a_number_is_a_number() -> None:
    recipe = read("lora.rank=8", "train.learning_rate=1e-4", "data.packing=true")
    assert recipe.lora.rank == 8
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.packing is True


def test_text_is_text_whatever_it_looks_like() -> None:
    recipe = read("name=8", r"evaluate.answer_pattern=####\s*(\d+)", "model.revision=1e5")
    assert recipe.name == "8"
    assert recipe.evaluate.answer_pattern == r"####\s*(\d+)"
    assert recipe.model.revision == "1e5"


def test_a_list_is_written_in_brackets() -> None:
    assert read("lora.targets=[q_proj,v_proj]").lora.targets == ["q_proj", "v_proj"]


def test_a_word_may_stand_for_a_list() -> None:
    assert read("lora.targets=all-linear").lora.targets == "all-linear"


def test_null_drops_a_sweep() -> None:
    assert read("sweep=null").sweep is None


@pytest.mark.parametrize("word", ["none", "None"])
def test_another_word_for_null_is_answered_with_null(word: str) -> None:
    (mistake,) = mistakes(f"data.max_rows={word}")
    assert mistake.endswith(f"not the text '{word}'; write null for none")
    assert read("data.max_rows=null").data.max_rows is None
    assert "null" not in mistakes(f"lora.rank={word}")[0]


def test_null_takes_a_setting_back() -> None:
    assert read("data.system=Be kind.", "data.system=null").data.system is None


def test_a_sweep_can_be_changed() -> None:
    recipe = read("sweep.parameters.train.learning_rate=[1e-4, 2e-4]", "sweep.max_parallel=3")
    assert recipe.sweep is not None
    assert recipe.sweep.parameters == {
        "lora.rank": [4, 8],
        "train.learning_rate": [1e-4, 2e-4],
    }
    assert recipe.sweep.max_parallel == 3


def test_a_column_can_be_named() -> None:
    assert read("data.columns.question=prompt").data.columns == {"question": "prompt"}


def test_the_last_override_counts() -> None:
    assert read("lora.rank=8", "lora.rank=32").lora.rank == 32


def test_a_section_that_the_file_leaves_out_is_made() -> None:
    assert read("evaluate.samples=0").evaluate.samples == 0


def test_a_whole_section_can_be_given() -> None:
    assert read("lora={rank: 2, alpha: 4}").lora.rank == 2


def test_an_unknown_key_names_the_nearest() -> None:
    assert mistakes("lora.rnak=8") == [
        "-s lora.rnak=8: lora.rnak is not a setting. Did you mean lora.rank?"
    ]


def test_all_wrong_overrides_are_reported() -> None:
    assert mistakes("rank", "lora.rank=many", "lora.targets=[a", "train.seed=-1") == [
        "-s rank: write it as key=value, e.g. lora.rank=8",
        "-s lora.rank=many: lora.rank must be a whole number, not the text 'many'",
        "-s lora.targets=[a: lora.targets must be a list, like [q_proj, v_proj] or all-linear",
        "-s train.seed=-1: train.seed must be at least 0, not -1",
    ]


def test_a_mistake_in_the_file_that_is_overridden_is_gone() -> None:
    text = SMALL.replace("rank: 16", "rank: many")
    recipe = read_recipe(text, folder=Path("/nowhere"), overrides=["lora.rank=8"])
    assert recipe.lora.rank == 8


def test_a_path_typed_in_a_shell_is_relative_to_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert read("data.train=rows.csv").data.train == str(tmp_path / "rows.csv")


def test_a_key_may_be_short_where_one_section_has_it() -> None:
    recipe = read("rank=8", "lr=1e-4", "max_tokens=256")
    assert recipe.lora.rank == 8
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.max_tokens == 256


def test_a_short_key_of_several_sections_names_them() -> None:
    assert mistakes("revision=3", "rnak=8") == [
        "-s revision=3: revision may be model.revision or data.revision: "
        "write model.revision=…, or data.revision=…",
        "-s rnak=8: rnak is not a setting. Did you mean lora.rank?",
    ]
