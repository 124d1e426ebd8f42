"""The projections that get an adapter, in models that compute several of Llama's as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.model.bases import made
from tests.training.trials import Bench, recipe
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.attempts.events import Outcome
from workbench.errors import RecipeError
from workbench.footprint.model.fused_projections import with_fused
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.layers import lora_params
from workbench.machine import staging
from workbench.recipe.schema import LLAMA_PROJECTIONS, Model
from workbench.recipe.shipped import shipped_file
from workbench.training.model.adapter import adapter_state, add_adapter
from workbench.training.model.preflight import check_model
from workbench.training.model.source import resolve_model

PHI3 = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("targets", "present", "expected"),
    [
        (LLAMA_PROJECTIONS, PHI3, PHI3),
        (LLAMA_PROJECTIONS, LLAMA_PROJECTIONS, list(LLAMA_PROJECTIONS)),
        (["q_proj", "v_proj"], PHI3, ["q_proj", "v_proj"]),
        (["q_proj", "k_proj", "v_proj"], ["query_key_value", "dense"], ["query_key_value"]),
        (["qkv_proj"], PHI3, ["qkv_proj"]),
        (["gate_proj", "up_proj"], ["q_proj", "gate_up_proj"], ["gate_up_proj"]),
    ],
)
def test_names_of_all_parts_mean_the_fused_projection(
    targets: list[str], present: list[str], expected: list[str]
) -> None:
    assert with_fused(targets, present) == expected


def test_the_default_targets_train_every_projection_of_a_phi_3(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "phi3", bos_token_id=0, eos_token_id=0)
    settings = recipe(model__name=str(folder), train__max_steps=1)
    assert check_model(resolve_model(settings.model), settings) == []
    bench = Bench(tmp_path / "home", settings)
    log = bench.run()
    assert log.outcome is Outcome.DONE, log.end
    adapter = bench.trial / "adapter"
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(PHI3)
    shape = ModelShape.of(json.loads((folder / "config.json").read_text()))
    trained = sum(tensor.numel() for tensor in load_file(adapter / WEIGHTS).values())
    assert trained == lora_params(shape, settings.lora)  # what the plan counts
    source = {
        "trial": 7,
        "folder": str(adapter),
        "sha256": staging.file_sha256(adapter / WEIGHTS),
    }
    warm = Bench(tmp_path / "again", settings).run(warm=source)
    assert warm.outcome is Outcome.DONE, warm.end


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks by an old name
def test_on_a_llama_the_default_is_the_adapter_on_the_seven_projections() -> None:
    """Trials of recipes that list the seven give the numbers that they gave."""
    made = []
    for settings in ({}, {"lora__targets": list(LLAMA_PROJECTIONS)}):
        base = AutoModelForCausalLM.from_pretrained(shipped_file("workbench:demo/model"))
        made.append(adapter_state(add_adapter(base, recipe(**settings), lambda *_, **__: None)))
    default, listed = made
    assert default.keys() == listed.keys()
    assert all(torch.equal(default[name], listed[name]) for name in listed)


def test_the_check_names_targets_that_stay_out(tmp_path: Path) -> None:
    folder = made(tmp_path / "model", "phi3", bos_token_id=0, eos_token_id=0)
    settings = recipe(model__name=str(folder), lora__targets=["q_proj", "o_proj"])
    notes = check_model(resolve_model(settings.model), settings)
    assert notes == ["lora.targets: this model has no q_proj; the others are trained"]


@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head"], []])
def test_the_check_refuses_targets_that_cannot_be_trained(
    targets: list[str], tmp_path: Path
) -> None:
    folder = made(tmp_path / "model", "phi3", bos_token_id=0, eos_token_id=0)
    settings: Any = recipe(model__name=str(folder), lora__targets=targets)
    with pytest.raises(RecipeError) as refused:
        check_model(resolve_model(Model(name=str(folder))), settings)
    assert refused.value.hint
