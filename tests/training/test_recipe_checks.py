"""Recipes that would learn or score nothing are refused, and applying the hint cures them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests.training import trials
from workbench.errors import DataError, RecipeError
from workbench.recipe import Recipe
from workbench.recipe.schema import LLAMA_PROJECTIONS, Lora
from workbench.training.model.targets import find_targets
from workbench.training.prepare import prepare_experiment
from workbench.training.recipe_checks import (
    check_positions,
    scoring_notes,
    step_notes,
    suggested_pattern,
    warmup_steps,
)

SWEEP = {"method": "grid", "parameters": {"train.warmup": [0.0, 0.9]}}
ASKED = [
    {"prompt_ids": [1, 2], "answer": f"{n} and one make {n + 1} #### {n + 1}"} for n in range(20)
]


class Words:
    """A tokenizer with one token for each character."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(one) for one in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(one) for one in ids)


def notes(rows: list[dict[str, Any]] = ASKED, **evaluate: Any) -> list[str]:
    settings = {f"evaluate__{key}": value for key, value in evaluate.items()}
    return scoring_notes(trials.recipe(**settings), rows, Words())


def applied(hint: str) -> dict[str, Any]:
    """The settings that a hint tells a person to write, `evaluate.max_new_tokens: 32`."""
    found = re.findall(r"(?:set |or )(?:evaluate|train)\.(\w+): ('[^']*'|\d+)", hint)
    assert found, hint
    return {key: text.strip("'") if text.startswith("'") else int(text) for key, text in found}


# ── scoring ──────────────────────────────────────────────────────────────────────────────────


def test_a_pattern_that_fits_gives_no_note() -> None:
    assert notes(answer_pattern=r"####\s*(\S+)") == []
    assert notes(answer_pattern=None) == []


@pytest.mark.parametrize("pattern", [r"=> (\d+)", r"#### ([a-z]*)"])
def test_a_pattern_that_finds_nothing_is_refused_and_the_suggested_one_works(pattern: str) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.answer_pattern") as refused:
        notes(answer_pattern=pattern)
    assert notes(**applied(refused.value.hint)) == []


def test_a_pattern_that_is_too_slow_is_refused_and_the_suggested_one_works() -> None:
    rows = [*ASKED, {"prompt_ids": [1], "answer": "a" * 60 + "b #### 1"}]
    with pytest.raises(RecipeError, match=r"takes more than 0\.5 s on an expected") as refused:
        notes(rows, answer_pattern=r"(a|aa)+$")
    assert notes(rows, **applied(refused.value.hint)) == []


def test_a_pattern_that_misses_some_answers_is_a_note() -> None:
    rows = [*ASKED[:15], *({"prompt_ids": [1], "answer": "none"} for _ in range(5))]
    (note,) = notes(rows, answer_pattern=r"####\s*(\S+)")
    assert "matches 15 of 20 expected answers" in note
    assert "'none'" in note
    assert notes(rows, **applied(note)) == []


def test_few_unmatched_answers_are_no_matter() -> None:
    rows = [*ASKED[:19], {"prompt_ids": [1], "answer": "none"}]
    assert notes(rows, answer_pattern=r"####\s*(\S+)") == []


def test_a_pattern_without_the_part_to_compare_is_a_note() -> None:
    (note,) = notes(answer_pattern="####")
    assert "the same answer in all expected answers, '####'" in note
    assert notes(**applied(note)) == []


@pytest.mark.parametrize(
    ("answers", "pattern"),
    [
        (["#### 1", "#### 2"], r"####\s*(\S+)"),
        ([r"so \boxed{1}", r"so \boxed{2}"], r"\\boxed\{([^{}]*)\}"),
        (["Answer: B", "answer C"], r"(?i)answer:?\s*(\S+)"),
        (["it is 4", "it is 5"], r"(-?\d[\d.,]*)"),
        (["yes", "no"], r"(?s)\s*(.+)"),
    ],
)
def test_the_suggested_pattern_suits_the_answers(answers: list[str], pattern: str) -> None:
    assert suggested_pattern(answers) == pattern


def test_rows_without_a_question_cannot_be_scored() -> None:
    rows = [{"prompt_ids": [], "answer": "#### 1"}]
    with pytest.raises(RecipeError, match="no held-out row has a question") as refused:
        notes(rows, answer_pattern="####")
    assert "take evaluate.answer_pattern out" in refused.value.hint
    assert notes(rows, answer_pattern=None) == []


def test_too_few_new_tokens_for_any_answer_are_refused_with_numbers() -> None:
    longest = max(len(str(row["answer"])) for row in ASKED)
    with pytest.raises(RecipeError, match="5 tokens are enough for 0 of 20") as refused:
        notes(answer_pattern=r"####\s*(\S+)", max_new_tokens=5)
    assert f"the longest {longest}" in refused.value.what
    assert notes(answer_pattern=r"####\s*(\S+)", **applied(refused.value.hint)) == []


def test_too_few_new_tokens_for_some_answers_are_a_note() -> None:
    rows = [*ASKED[:10], *({"prompt_ids": [1], "answer": "x" * 90 + "#### 1"} for _ in range(10))]
    (note,) = notes(rows, answer_pattern=r"####\s*(\S+)", max_new_tokens=40)
    assert "enough for 10 of 20" in note
    assert notes(rows, answer_pattern=r"####\s*(\S+)", **applied(note)) == []


def test_an_answer_whose_result_comes_early_needs_few_tokens() -> None:
    rows = [{"prompt_ids": [1], "answer": f"#### {n}\n" + "because " * 50} for n in range(9)]
    assert notes(rows, answer_pattern=r"####\s*(\S+)", max_new_tokens=16) == []


# ── learning ─────────────────────────────────────────────────────────────────────────────────


def test_one_step_at_learning_rate_zero_is_refused_and_the_hint_cures_it() -> None:
    with pytest.raises(RecipeError, match="learning rate 0") as refused:
        step_notes(trials.recipe(train__max_steps=1, train__warmup=0.03), 100)
    assert applied(refused.value.hint) == {"warmup": 0}
    assert step_notes(trials.recipe(train__max_steps=1, train__warmup=0), 100) == []
    assert step_notes(trials.recipe(train__max_steps=2, train__warmup=0.03), 100) == []


def test_data_for_one_step_only_is_refused_too() -> None:
    with pytest.raises(RecipeError, match="learning rate 0"):
        step_notes(trials.recipe(train__warmup=0.03), 4)


def test_a_warmup_of_all_steps_is_a_note() -> None:
    (note,) = step_notes(trials.recipe(train__max_steps=5, train__warmup=0.9), 100)
    assert "all 5 steps" in note
    assert "80%" in note
    assert step_notes(trials.recipe(train__max_steps=5, train__warmup=0.5), 100) == []


def test_every_value_of_a_sweep_is_checked() -> None:
    own = trials.recipe(train__max_steps=3, sweep=SWEEP)
    (note,) = step_notes(own, 100)
    assert note.startswith("train.warmup: 0.9: ")
    swept = {"method": "grid", "parameters": {"train.max_steps": [1, 50]}}
    with pytest.raises(RecipeError, match=r"train\.max_steps: 1: "):
        step_notes(trials.recipe(sweep=swept), 100)


def test_warmups_are_counted_as_the_trainer_counts_them() -> None:
    from transformers import TrainingArguments

    for steps, share in ((10, 0.03), (33, 0.03), (34, 0.03), (7, 0.5)):
        own = trials.recipe(train__max_steps=steps, train__warmup=share)
        theirs = TrainingArguments(warmup_steps=share, use_cpu=True).get_warmup_steps(steps)
        assert warmup_steps(own, 100) == theirs


# ── positions ────────────────────────────────────────────────────────────────────────────────


def positions_of(**changed: int) -> dict[str, int]:
    lengths = {"max_length": 90, "eval_max_length": 90, "uncut_max_length": 90, "prompt_length": 40}
    return lengths | changed


@pytest.mark.parametrize("key", ["max_length", "eval_max_length"])
def test_a_row_beyond_the_positions_is_refused(key: str) -> None:
    config = {"max_position_embeddings": 100}
    own = trials.recipe(data__max_tokens=512)
    with pytest.raises(DataError, match="has 101 tokens, the model reads 100") as refused:
        check_positions(own, config, positions_of(**{key: 101}))
    assert "lower data.max_tokens to 100" in refused.value.hint
    cured = trials.recipe(data__max_tokens=100)
    assert check_positions(cured, config, positions_of(**{key: 100})) == []


def test_max_tokens_beyond_the_positions_is_a_note() -> None:
    own = trials.recipe(data__max_tokens=512)
    (note,) = check_positions(own, {"max_position_embeddings": 100}, positions_of())
    assert "at most 100 tokens" in note


def test_cut_rows_that_no_setting_could_keep_whole_are_a_note() -> None:
    own = trials.recipe(data__max_tokens=90)
    (note,) = check_positions(
        own, {"max_position_embeddings": 100}, positions_of(uncut_max_length=300)
    )
    assert "have to be shortened or split" in note


def test_answers_beyond_the_positions_are_a_note_and_its_setting_cures_it() -> None:
    config = {"max_position_embeddings": 100}
    settings = {"evaluate__answer_pattern": "(x)", "data__max_tokens": 96}
    own = trials.recipe(**settings, evaluate__max_new_tokens=80)
    (note,) = check_positions(own, config, positions_of())
    assert applied(note) == {"max_new_tokens": 60}
    cured = trials.recipe(**settings, evaluate__max_new_tokens=60)
    assert check_positions(cured, config, positions_of()) == []


def test_prompts_that_leave_no_room_for_an_answer_are_a_note() -> None:
    own = trials.recipe(evaluate__answer_pattern="(x)", data__max_tokens=100)
    lengths = positions_of(max_length=100, prompt_length=100)
    (note,) = check_positions(own, {"max_position_embeddings": 100}, lengths)
    assert "leaves no room for an answer" in note


# ── targets ──────────────────────────────────────────────────────────────────────────────────


class Base(nn.Module):
    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names or ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "lm_head"):
            self.add_module(name, nn.Linear(2, 2))


@pytest.mark.parametrize("targets", [["q_prj"], ["v_proj", "q_prj"], ["v_proj", "qproj"]])
def test_a_misspelt_target_is_refused_with_the_nearest_name(targets: list[str]) -> None:
    with pytest.raises(RecipeError, match=rf"has no {targets[-1]}$") as refused:
        find_targets(Base(), Lora(targets=targets))
    assert f"did you mean q_proj for {targets[-1]}?" in refused.value.hint
    cured = [*targets[:-1], "q_proj"]
    assert find_targets(Base(), Lora(targets=cured)) == (cured, [])


def test_targets_of_another_family_are_refused_with_those_of_the_model() -> None:
    with pytest.raises(RecipeError) as refused:
        find_targets(Base(), Lora(targets=["c_attn"]))
    assert "it has k_proj, o_proj, q_proj, up_proj, v_proj" in refused.value.hint


def test_a_table_of_embeddings_may_be_a_target() -> None:
    base = Base()
    base.embed_tokens = nn.Embedding(4, 2)
    assert find_targets(base, Lora(targets=["q_proj", "embed_tokens"]))[1] == []


def test_a_usual_target_that_a_model_lacks_is_a_note() -> None:
    made, (note,) = find_targets(Base(), Lora(targets=list(LLAMA_PROJECTIONS)))
    assert "gate_proj" in note
    assert "q_proj" in made


# ── together ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"evaluate__answer_pattern": "=> (.*)"}, "answer_pattern matches none"),
        (
            {"evaluate__answer_pattern": r"####\s*(\S+)", "evaluate__max_new_tokens": 1},
            "tokens are enough for 0 of",
        ),
        ({"lora__targets": ["q_prj"]}, "has no q_prj"),
        ({"sweep": {"parameters": {"lora.targets": [["q_proj"], ["v_prj"]]}}}, "has no v_prj"),
        ({"train__max_steps": 1, "train__warmup": 0.1}, "learning rate 0"),
    ],
)
def test_preparing_refuses_them_before_anything_is_queued(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    own: Recipe = trials.recipe(**settings)
    (folder / "recipe.json").write_text(own.model_dump_json())
    progress: Callable[..., None] = lambda *_: None  # noqa: E731
    with pytest.raises(RecipeError, match=words):
        prepare_experiment(folder, tmp_path / "cache", progress)
    result = json.loads((folder / "prepared.json").read_text())
    assert (result["ok"], result["exit_code"]) == (False, 2)
    assert result["hint"]
