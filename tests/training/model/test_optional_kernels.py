"""Layers whose kernels are not installed are named, with the packages that have them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.machine.packages import install_command
from workbench.training.model import preflight
from workbench.training.model.preflight import kernel_notes, packages_of


def empty(kind: str, **settings: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))


def test_linear_attention_without_its_kernels_is_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there: set[str] = set()
    monkeypatch.setattr(preflight, "find_spec", lambda name: name if name in there else None)
    model = empty("qwen3_5_text", num_hidden_layers=8)
    (note,) = kernel_notes(model)
    assert note.startswith(
        "6 of 8 layers have a Qwen3_5GatedDeltaNet, whose kernels are not installed "
        "(flash-linear-attention, causal-conv1d): PyTorch's operations take their place"
    )
    assert note.endswith("pip install --no-build-isolation flash-linear-attention causal-conv1d")
    there.add("causal_conv1d")
    assert kernel_notes(model)[0].endswith("pip install flash-linear-attention")
    there.add("fla")
    assert kernel_notes(model) == []


def test_layers_of_attention_alone_ask_for_no_kernels() -> None:
    assert kernel_notes(empty("llama", num_hidden_layers=2)) == []


def test_state_space_layers_ask_for_two_packages() -> None:
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    assert packages_of(Mamba2Mixer) == ["causal-conv1d", "mamba-ssm"]
    assert install_command(["mamba-ssm"]) == "pip install --no-build-isolation mamba-ssm"
