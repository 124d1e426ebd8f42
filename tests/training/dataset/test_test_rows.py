"""Test rows: a second held-out set, split off or of its own, and never trained on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.training.dataset.conftest import Check, refusal
from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.training.dataset.prepared import (
    check_unchanged,
    load_prepared,
    load_test_rows,
    prepare_data,
)

PAIRS = [{"prompt": f"What is {n} + 1?", "completion": f"#### {n + 1}"} for n in range(20)]
OTHERS = [{"prompt": f"What is {n} + 2?", "completion": f"#### {n + 2}"} for n in range(5)]

WriteRows = Callable[..., Path]
RecipeOf = Callable[..., Recipe]


def asked(rows: Any) -> set[str]:
    return set(rows["question"])


def test_test_rows_are_split_off_beside_the_same_held_out_rows(check: Check) -> None:
    without, prepared = check(PAIRS), check(PAIRS, test_rows=3)
    held, test = load_prepared(prepared)[1], load_test_rows(prepared)
    assert (prepared.train_rows, prepared.eval_rows, prepared.test_rows) == (15, 2, 3)
    assert prepared.eval_digest == without.eval_digest
    assert prepared.test_digest not in ("", prepared.eval_digest)
    assert len(asked(test)) == 3
    assert not asked(test) & asked(held)
    assert test.column_names == held.column_names


def test_no_test_row_is_trained_on_not_even_as_a_copy(
    check: Check, tokenizer: PreTrainedTokenizerBase
) -> None:
    prepared = check([*PAIRS, *PAIRS], test_rows=3)
    train, test = load_prepared(prepared)[0], load_test_rows(prepared)
    tested = {tokenizer.decode(ids) for ids in test["input_ids"]}
    assert not tested & {tokenizer.decode(ids) for ids in train["input_ids"]}
    assert any("5 train rows left out, because they repeat held-out" in n for n in prepared.notes)


def test_a_test_file_of_its_own_is_read_whole_or_its_first_rows(
    check: Check, write_rows: WriteRows
) -> None:
    file = str(write_rows(OTHERS, "test.jsonl"))
    whole, first = check(PAIRS, test=file), check(PAIRS, test=file, test_rows=2)
    assert (whole.train_rows, whole.eval_rows, whole.test_rows) == (18, 2, 5)
    assert load_test_rows(first)["answer"] == ["#### 2", "#### 3"]
    assert whole.eval_digest == first.eval_digest == check(PAIRS).eval_digest
    assert len(whole.sources) == 3


def test_test_rows_are_split_off_beside_a_held_out_file(
    check: Check, write_rows: WriteRows
) -> None:
    prepared = check(PAIRS, eval=str(write_rows(OTHERS, "eval.jsonl")), eval_rows=5, test_rows=4)
    assert (prepared.train_rows, prepared.eval_rows, prepared.test_rows) == (16, 5, 4)


def test_test_rows_that_were_trained_on_or_chosen_by_are_noted(
    check: Check, write_rows: WriteRows
) -> None:
    held = str(write_rows(OTHERS, "eval.jsonl"))
    test = str(write_rows([PAIRS[7], OTHERS[1], OTHERS[2]], "test.jsonl"))
    notes = check(PAIRS, eval=held, eval_rows=5, test=test).notes
    assert [note.partition(";")[0] for note in notes] == [
        "1 test row standing in the training rows, too (first: test.jsonl:1)",
        "2 test rows standing in the held-out rows, too (first: test.jsonl:2)",
    ]


def test_test_rows_that_cannot_be_scored_are_refused_with_file_and_line(
    check: Check, write_rows: WriteRows
) -> None:
    test = str(write_rows([*OTHERS, {"prompt": "Why?"}], "test.jsonl"))
    assert refusal(check, PAIRS, test=test).startswith("test.jsonl:6")
    empty = str(write_rows([], "none.jsonl"))
    assert "none.jsonl holds no test rows" in refusal(check, PAIRS, test=empty)


def test_copies_of_held_out_rows_are_counted_where_they_leave_none_to_train_on(
    check: Check,
) -> None:
    said = refusal(check, PAIRS[:3] * 10, eval_rows=3)
    assert "30 rows, 3 of them different, of which 3 are to be held out, leave none" in said


def test_more_test_rows_than_there_are_leave_none_to_train_on(check: Check) -> None:
    said = refusal(check, PAIRS, test_rows=18)
    assert "20 rows, of which 20 are to be held out" in said
    assert "lower data.eval_rows and data.test_rows to less than 20 together" in said
    assert check(PAIRS, test_rows=17).train_rows == 1


def test_a_changed_test_file_is_reported(
    recipe_of: RecipeOf,
    write_rows: WriteRows,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    test = write_rows(OTHERS, "test.jsonl")
    recipe = recipe_of(write_rows(PAIRS), test=str(test))
    cache = tmp_path / "cache"
    prepared = prepare_data(recipe, tokenizer, cache, lambda *_: None)
    check_unchanged(recipe.data, prepared.sources, cache)
    write_rows(OTHERS[1:], "test.jsonl")
    os.utime(test, (1, 1))
    with pytest.raises(DataError, match=r"the rows changed in .*test\.jsonl"):
        check_unchanged(recipe.data, prepared.sources, cache)


def test_a_recipe_without_test_rows_has_none(check: Check) -> None:
    prepared = check(PAIRS)
    assert (prepared.test_rows, prepared.test_digest, len(prepared.sources)) == (0, "", 2)
    with pytest.raises(DataError, match="no test rows"):
        load_test_rows(prepared)
