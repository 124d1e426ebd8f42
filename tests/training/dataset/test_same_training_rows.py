"""Rows that a later build names differently are still known as the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.recipe import Recipe, apply_settings, find_recipe, load_recipe
from workbench.training.dataset import prepared
from workbench.training.model.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(find_recipe("demo"), ["data.max_rows=20"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    from workbench.recipe import shipped_file

    return load_tokenizer(str(shipped_file("workbench:demo/model")), None)


def digest(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, cache: Path) -> str:
    return prepared.prepare_data(recipe, tokenizer, cache, lambda *_: None).digest


def test_equal_rows_of_two_formats_are_the_same(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = digest(recipe, tokenizer, tmp_path)
    monkeypatch.setattr(prepared, "FORMAT", prepared.FORMAT + 1)
    other = digest(recipe, tokenizer, tmp_path)
    assert one != other
    assert prepared.same_training_rows(tmp_path, one, other)


def test_other_rows_are_not_the_same_and_neither_are_lost_ones(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    one = digest(recipe, tokenizer, tmp_path)
    fewer = digest(apply_settings(recipe, {"data.max_rows": 10}), tokenizer, tmp_path)
    assert not prepared.same_training_rows(tmp_path, one, fewer)
    assert not prepared.same_training_rows(tmp_path, one, "0" * 32)
