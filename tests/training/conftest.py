"""Fixtures: a real tokenizer, and recipes on small files."""

from __future__ import annotations

import copy
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.recipe import Recipe, shipped_file
from workbench.training.model.tokenizer import load_tokenizer

RecipeOf = Callable[..., Recipe]
WriteRows = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _collect_what_is_new() -> None:
    """Leave what lives before a module's tests out of later collections.

    A trial collects four times, which took 30 ms each late in a run and takes a few.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _demo_tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(str(shipped_file("workbench:demo/model")), None)


@pytest.fixture
def tokenizer(_demo_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy of the demo's tokenizer: Llama 3's begin token, headers and `<|eot_id|>`."""
    return copy.deepcopy(_demo_tokenizer)


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """write_rows(rows, name="train.jsonl") -> the file's path."""

    def write(rows: list[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def recipe_of() -> RecipeOf:
    """recipe_of(train_file, **data settings) -> a recipe for the demo's model."""

    def build(train: Path | str, **data: Any) -> Recipe:
        data = {"eval_rows": 2, "max_tokens": 256, **data, "train": str(train)}
        return Recipe.model_validate(
            {"name": "test", "model": {"name": "workbench:demo/model"}, "data": data}
        )

    return build
