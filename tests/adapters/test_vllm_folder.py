"""A folder for vLLM holds an adapter that vLLM takes, and names the command that serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.adapters.folders import PEFT, write_adapter
from workbench.adapters.vllm_folder import write_vllm_folder
from workbench.errors import CheckpointError, UsageError

FROM_HUB = {**PEFT, "revision": "a" * 40}


def test_the_folder_holds_the_adapter_and_the_command_serves_it(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", FROM_HUB)
    (adapter / "recipe.yaml").write_text("name: mine\n")
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    written = write_vllm_folder(adapter, tmp_path / "out", "mine")
    assert written.command == (
        f"vllm serve meta-llama/Meta-Llama-3-8B --revision {'a' * 40} --enable-lora "
        f"--max-lora-rank 8 --lora-modules mine={tmp_path / 'out'} "
        f"--chat-template {tmp_path / 'out' / 'chat_template.jinja'}"
    )
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 8
    assert (tmp_path / "out" / "recipe.yaml").read_text() == "name: mine\n"  # its card names it


@pytest.mark.parametrize(
    ("config", "modules", "words"),
    [
        ({"use_dora": True}, None, "DoRA"),
        ({"bias": "lora_only"}, None, "biases"),
        ({"alpha_pattern": {"v_proj": 8}}, None, "alpha"),
        ({}, {"model.layers.0.self_attn.q_proj": (32, 32, 600)}, "rank"),
        ({}, {"model.layers.0.self_attn.conv": (32, 32, 8)}, "conv"),
    ],
)
def test_what_vllm_does_not_take_is_refused(
    config: dict[str, Any], modules: Any, words: str, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", {**PEFT, **config}, modules)
    with pytest.raises(CheckpointError, match=f"vLLM does not take.*{words}"):
        write_vllm_folder(adapter, tmp_path / "out", "mine")
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]


def test_a_half_written_adapter_and_a_name_that_is_none_are_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", PEFT)
    with pytest.raises(UsageError):
        write_vllm_folder(adapter, tmp_path / "out", "two words")
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError):
        write_vllm_folder(adapter, tmp_path / "out", "mine")


@pytest.mark.parametrize(("width", "fits"), [(32, True), (48, False)])
def test_an_adapter_of_another_base_is_refused(width: int, fits: bool, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    names = [f"model.layers.0.self_attn.{one}_proj" for one in "qv"]
    weights = {f"{name}.weight": np.zeros((width, width), np.float32) for name in names}
    save_file(weights, base / "model.safetensors")
    modules = dict.fromkeys(names, (32, 32, 8))
    config = {**PEFT, "base_model_name_or_path": str(base)}
    adapter = write_adapter(tmp_path / "adapter", config, modules)
    if fits:
        assert write_vllm_folder(adapter, tmp_path / "out", "mine").base == str(base)
        return
    with pytest.raises(CheckpointError, match=r"are for \[32, 32\], and .* has \[48, 48\]"):
        write_vllm_folder(adapter, tmp_path / "out", "mine")
    assert not (tmp_path / "out").exists()
