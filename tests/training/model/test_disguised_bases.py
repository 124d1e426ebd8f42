"""Folders that look like a base and are something else are refused with a hint that works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.model.bases import UP, copied
from tests.training.trials import recipe
from workbench.errors import ModelError
from workbench.recipe.schema import Model
from workbench.training.model.preflight import check_model
from workbench.training.model.source import resolve_model
from workbench.training.model.tokenizer import load_tokenizer
from workbench.training.model.weights import check_weights, load_whole

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def checked(folder: Path) -> list[str]:
    """Check the folder as the preparation does: source, tokenizer, weights."""
    source = resolve_model(Model(name=str(folder)))
    load_tokenizer(str(folder), None)
    return check_model(source, recipe(model__name=str(folder)))


def refusal(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as refused:
        checked(folder)
    return refused.value


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_refused_as_that(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path / "model")
    whole = (folder / name).read_bytes()
    (folder / name).write_text(POINTER)
    refused = refusal(folder)
    assert f"{name} in {folder} is a pointer of Git LFS" in refused.what
    assert "git lfs pull" in refused.hint
    (folder / name).write_bytes(whole)
    assert checked(folder) == []


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_not_called_missing(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path / "model")
    (folder / name).write_text("{broken")
    assert "copy tokenizer.json and tokenizer_config.json again" in refusal(folder).hint
    (folder / name).unlink()
    if name == "tokenizer.json":
        assert "must hold tokenizer.json" in refusal(folder).hint


def test_a_model_beside_an_adapter_is_refused_because_another_would_be_loaded(
    tmp_path: Path,
) -> None:
    folder = copied(tmp_path / "model")
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    assert "holds an adapter beside the model: adapter_config.json" in refusal(folder).what
    with pytest.raises(ModelError, match="holds an adapter beside the model"):
        check_weights(str(folder), None)
    adapter.unlink()
    assert checked(folder) == []


@pytest.mark.parametrize("name", ["consolidated.safetensors", "model.fp16.safetensors"])
def test_weights_under_another_name_are_refused_until_they_are_renamed(
    tmp_path: Path, name: str
) -> None:
    folder = copied(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / name)
    refused = refusal(folder)
    assert f"has {name}, and neither model.safetensors nor" in refused.what
    assert "may be renamed to model.safetensors" in refused.hint
    (folder / name).rename(folder / "model.safetensors")
    assert checked(folder) == []


def in_8_bits(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
    def change(weights: dict[str, Tensor]) -> None:
        weights[UP] = weights[UP].to(dtype)

    return change


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8], ids=str)
def test_bare_numbers_of_8_bits_are_not_taken_for_weights(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    refused = refusal(copied(tmp_path / "model", in_8_bits(dtype)))
    assert f"{UP} in " in refused.what
    assert "names no quantisation" in refused.what
    assert "original weights" in refused.hint


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_weights_of_other_whole_formats_are_taken(tmp_path: Path, dtype: torch.dtype) -> None:
    assert checked(copied(tmp_path / "model", in_8_bits(dtype))) == []


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "nosuch"},
        {"rope_parameters": {"rope_type": "nosuch", "rope_theta": 1.0}},
        {"rope_parameters": None, "rope_scaling": "linear"},
        {"num_attention_heads": "four"},
    ],
    ids=str,
)
def test_a_value_that_transformers_cannot_take_is_no_traceback(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = copied(tmp_path / "model", **config)
    assert refusal(folder).hint
    with pytest.raises(ModelError) as refused:
        load_whole(str(folder), None, device_map={"": "cpu"})
    assert "config.json" in refused.value.what + refused.value.hint
