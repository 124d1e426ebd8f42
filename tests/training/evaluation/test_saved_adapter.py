"""Adapters that PEFT saved compute on our base what they compute in PEFT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.training.evaluation.plain_peft import DEMO, save_plain
from workbench.adapters.adapter_folder import read_adapter
from workbench.errors import CheckpointError
from workbench.training.model.saved_adapter import load_saved, load_several, refuse_other_names

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
IDS = torch.tensor([[5, 9, 33, 7, 21, 4]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 32}},
        {"target_modules": r".*\.layers\.[01]\..*(up_proj|gate_proj)"},
        {"target_modules": "all-linear", "layers_to_transform": None},
        {"layers_to_transform": [1], "exclude_modules": ["v_proj"]},
    ],
    ids=["plain", "rslora", "dora", "patterns", "regex", "all-linear", "layers"],
)
def test_it_computes_what_peft_computes(tmp_path: Path, settings: dict[str, Any]) -> None:
    folder = save_plain(tmp_path, **settings)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(DEMO), str(folder))
    base = AutoModelForCausalLM.from_pretrained(DEMO)
    alone = logits(base)
    mine = load_saved(base, read_adapter(folder))
    torch.testing.assert_close(logits(mine), logits(theirs.eval()), rtol=0, atol=1e-6)
    assert (logits(mine) - alone).abs().max() > 1e-2


def test_weights_in_16_bits_are_computed_in_32(tmp_path: Path) -> None:
    folder = save_plain(tmp_path, torch.bfloat16)
    model = load_saved(AutoModelForCausalLM.from_pretrained(DEMO), read_adapter(folder))
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save_plain(tmp_path)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    wider = {name: torch.cat([t, t], 1) if "lora_A" in name else t for name, t in tensors.items()}
    save_file(wider, weights)
    with pytest.raises(CheckpointError, match="and this base has"):
        load_saved(AutoModelForCausalLM.from_pretrained(DEMO), read_adapter(folder))
    other = {name.replace("q_proj", "query"): t for name, t in tensors.items()}
    save_file(other, weights)
    with pytest.raises(CheckpointError, match="does not have as a linear layer"):
        load_saved(AutoModelForCausalLM.from_pretrained(DEMO), read_adapter(folder))


def test_an_adapter_whose_layers_have_other_names_is_not_loaded_as_nothing(tmp_path: Path) -> None:
    """PEFT only warns, and the model answers as the base alone."""
    folder = save_plain(tmp_path)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)

    def loaded() -> PeftModel:
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(DEMO), str(folder))

    refuse_other_names(loaded(), folder)
    other = {name.replace(".layers.", ".language_model.layers."): t for name, t in tensors.items()}
    lost = dict(list(tensors.items())[1:])
    more = tensors | {"base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight": IDS}
    for changed in (other, lost, more):
        save_file(changed, weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's own, which nobody reads
            model = loaded()
        with pytest.raises(CheckpointError, match="layers of other names than this base's"):
            refuse_other_names(model, folder)


def test_a_lost_tensor_is_no_random_one(tmp_path: Path) -> None:
    folder = save_plain(tmp_path, use_dora=True)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if "magnitude" in name)
    save_file({name: t for name, t in tensors.items() if name != lost}, weights)
    with pytest.raises(CheckpointError, match="the adapter lacks"):
        load_saved(AutoModelForCausalLM.from_pretrained(DEMO), read_adapter(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": False}))
    with pytest.raises(CheckpointError, match="which has no place"):
        load_saved(AutoModelForCausalLM.from_pretrained(DEMO), read_adapter(folder))


def test_weights_that_are_not_finite_or_not_the_ones_that_were_saved_are_refused(
    tmp_path: Path,
) -> None:
    folder = save_plain(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(DEMO)
    with pytest.raises(CheckpointError, match="changed since it was saved"):
        load_saved(base, read_adapter(folder), sha256="0" * 64)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="not finite"):
        load_saved(base, read_adapter(folder))


def test_several_on_one_base_compute_each_what_it_computes_alone(tmp_path: Path) -> None:
    folders = {
        "adapter_0": save_plain(tmp_path / "one"),
        "adapter_2": save_plain(tmp_path / "two", r=2, target_modules=["k_proj", "up_proj"]),
        "adapter_3": save_plain(tmp_path / "three", use_dora=True),
    }
    found = {name: (read_adapter(folder), None) for name, folder in folders.items()}
    base = AutoModelForCausalLM.from_pretrained(DEMO)
    alone = logits(base)
    several = load_several(base, found)
    for name, (one, _) in found.items():
        several.set_adapter(name)
        expected = logits(load_saved(AutoModelForCausalLM.from_pretrained(DEMO), one))
        torch.testing.assert_close(logits(several), expected, rtol=0, atol=1e-6)
    with several.disable_adapter():
        torch.testing.assert_close(logits(several), alone, rtol=0, atol=1e-6)


def test_trained_biases_are_refused_beside_other_adapters(tmp_path: Path) -> None:
    biased = read_adapter(save_plain(tmp_path / "biased", bias="lora_only"))
    other = read_adapter(save_plain(tmp_path / "other"))
    base = AutoModelForCausalLM.from_pretrained(DEMO)
    with pytest.raises(CheckpointError, match="trained biases"):
        load_several(base, {"0": (biased, None), "1": (other, None)})
