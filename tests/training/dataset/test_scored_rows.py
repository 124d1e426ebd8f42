"""Rows that are only scored: equal to held-out rows, and read without any training file."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe import Recipe, apply_settings, find_recipe, load_recipe, shipped_file
from workbench.training.dataset.prepared import check_unchanged, load_prepared, prepare_data
from workbench.training.dataset.scored_rows import prepare_scored_rows
from workbench.training.model.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(find_recipe("demo"), ["data.max_rows=20", "data.eval_rows=6"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(str(shipped_file("workbench:demo/model")), None)


def test_scored_rows_equal_the_held_out_rows_of_an_experiment(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    beside = prepare_data(recipe, tokenizer, tmp_path, lambda *_: None)
    alone = prepare_scored_rows(recipe, tokenizer, tmp_path, lambda *_: None)
    assert alone.eval_digest == beside.eval_digest
    assert alone.digest != beside.digest
    assert alone.turn_end_ids == beside.turn_end_ids
    assert alone.eval_rows == 6
    assert alone.max_length == alone.eval_max_length == beside.eval_max_length
    train, held = load_prepared(alone)
    assert len(train) == alone.train_rows == 0
    assert held.to_list() == load_prepared(beside)[1].to_list()


def test_the_training_file_is_not_read(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    gone = apply_settings(recipe, {"data.train": str(tmp_path / "gone.jsonl")})
    prepared = prepare_scored_rows(gone, tokenizer, tmp_path / "cache", lambda *_: None)
    check_unchanged(gone.data, prepared.sources, tmp_path / "cache")


def test_a_changed_file_of_scored_rows_is_found(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    file, cache = tmp_path / "rows.jsonl", tmp_path / "cache"
    lines = shipped_file("workbench:demo/data/eval.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    mine = apply_settings(recipe, {"data.eval": str(file)})
    prepared = prepare_scored_rows(mine, tokenizer, cache, lambda *_: None)
    file.write_text("".join(lines[:5]))
    with pytest.raises(DataError, match=r"rows changed in .*rows\.jsonl"):
        check_unchanged(mine.data, prepared.sources, cache)
