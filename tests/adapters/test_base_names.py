"""Names of bases that mean one model, and names that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.adapters.base_names import same_base
from workbench.recipe.names import local_path


@pytest.mark.parametrize(
    ("trained_on", "scored_on"),
    [
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen/Qwen3-8B"),
        ("Qwen/Qwen3-8B", "unsloth/Qwen3-8B-bnb-4bit"),
        ("/data/models/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
    ],
)
def test_copies_of_one_model_are_the_same_base(trained_on: str, scored_on: str) -> None:
    assert same_base(trained_on, scored_on)


@pytest.mark.parametrize(
    ("trained_on", "scored_on"),
    [
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
        ("somebody/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("", "meta-llama/Meta-Llama-3-8B"),
        ("somebody/model", "workbench:demo/model"),
        ("/data/a/model", "/data/b/model"),
        ("workbench:no-such-model", "workbench:demo/model"),
    ],
)
def test_other_models_are_not(trained_on: str, scored_on: str) -> None:
    assert not same_base(trained_on, scored_on)


def test_a_folder_is_the_same_base_by_any_path(tmp_path: Path) -> None:
    folder, link = tmp_path / "model", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    assert same_base(str(link), str(folder))
    assert same_base(str(local_path("workbench:demo/model")), "workbench:demo/model")
