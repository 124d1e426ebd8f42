"""Preparation of a few rows under a chat template, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from workbench.errors import DataError
from workbench.recipe import Recipe
from workbench.training.dataset.prepared import Prepared, prepare_data

Check = Callable[..., Prepared]


@pytest.fixture
def check(
    tokenizer: PreTrainedTokenizerBase,
    recipe_of: Callable[..., Recipe],
    write_rows: Callable[..., Path],
    tmp_path: Path,
) -> Check:
    """check(rows or a file, template, **data settings): prepared, or DataError."""

    def run(rows: list[Any] | Path, template: str | None = None, **data: Any) -> Prepared:
        tokenizer.chat_template = template or tokenizer.chat_template
        path = rows if isinstance(rows, Path) else write_rows(rows)
        return prepare_data(recipe_of(path, **data), tokenizer, tmp_path / "c", lambda *_: None)

    return run


def refusal(check: Check, *rows: Any, **data: Any) -> str:
    """Return `error | hint` of the refusal."""
    with pytest.raises(DataError) as refused:
        check(*rows, **data)
    assert refused.value.hint
    return f"{refused.value.what} | {refused.value.hint}"
