"""Layers whose kernels are not installed are named, with the packages that have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.export.child import print_report
from workbench.machine.packages import KERNEL_PACKAGES, install_command
from workbench.machine.python_children import cpu_environment
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
        "(flash-linear-attention, causal-conv1d): for answers and held-out losses PyTorch's "
        "operations take their place, with the same result, much slower; on a GPU: "
    )
    monkeypatch.setattr(preflight, "FUSED_FAMILIES", frozenset())
    assert (
        "take their place, with the same result, much slower and with more memory"
        in (kernel_notes(model)[0])
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


LOADS = """
import sys, torch
from workbench.training.model.base import BaseSpec, load_base
how = {"quantization": "none", "double_quantization": False, "precision": "fp32"}
spec = BaseSpec(path=sys.argv[1], revision=None, attention="sdpa", device="cpu", **how)
print(tuple(load_base(spec)(input_ids=torch.arange(1, 20)[None]).logits.shape))
"""


def test_a_base_on_a_cpu_takes_no_kernels_of_a_card(tmp_path: Path) -> None:
    """A package stands in for flash-linear-attention, whose kernels need a driver."""
    installed = tmp_path / "site" / "fla" / "ops"
    installed.mkdir(parents=True)
    (installed.parent / "__init__.py").write_text("")
    (installed / "__init__.py").write_text("")
    (installed / "gated_delta_rule.py").write_text(
        "def chunk_gated_delta_rule(*args, **more):\n    raise RuntimeError('0 active drivers')\n"
    )
    heads = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16}
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 32}
    config = AutoConfig.for_model(
        "qwen3_5_text", vocab_size=128, num_attention_heads=2, num_key_value_heads=1,
        linear_value_head_dim=16, **heads, **sizes,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    env = cpu_environment({**os.environ, "PYTHONPATH": path})
    command = [sys.executable, "-c", LOADS, str(tmp_path / "model")]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "(1, 19, 128)" in ended.stdout, ended.stderr[-2000:]


@pytest.mark.parametrize(("visible", "hidden"), [("", True), ("0", False)])
def test_an_export_that_sees_no_gpu_takes_none_either(
    visible: str, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = KERNEL_PACKAGES.values()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        del sys.modules[module]  # as before the first import; what was there comes back at the end
    assert print_report(lambda: {"hidden": [sys.modules.get(one, "") for one in modules]}) == 0
    assert [sys.modules.get(one, "") is None for one in modules] == [hidden] * 3
