"""Small bases on disk, whole and broken in the ways that downloads and copies break."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from workbench.recipe.shipped import shipped_file
from workbench.training.model.weights import model_loader

DEMO = shipped_file("workbench:demo/model")
UP, Q = "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
Change = Callable[[dict[str, Tensor]], object]


def copied(
    folder: Path, change: Change = lambda weights: None, source: Path = DEMO, **config: Any
) -> Path:
    """Copy a model (the demo's) to `folder`, with changed weights and keys set in its config."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    written = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def sharded(folder: Path, *, lost_file: bool = False) -> Path:
    """Write the demo's model in two files with an index, of which one may be lost."""
    copied(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places: dict[str, str] = {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        places |= dict.fromkeys(part, file)
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if lost_file:
        (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


def cut_short(folder: Path) -> Path:
    """Copy the demo's model with half of its weights' file."""
    copied(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return folder


def made(folder: Path, kind: str, **config: Any) -> Path:
    """Write a random model of another architecture with the demo's tokenizer."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 512}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape | config))
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder)
    return folder


def in_four_bits(folder: Path, quant_type: str = "nf4", source: Path = DEMO) -> Path:
    """Write a model (the demo's) as bitsandbytes stores 4-bit weights, computed in bf16."""
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=how, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(DEMO / name, folder)
    return folder


def seeing(folder: Path, family: str) -> Path:
    """Write a tiny model of a family that sees, with the demo's tokenizer; return `folder`."""
    from tests.training.step.conftest import EYES, SEEING

    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024}
    if family.startswith("gemma4"):
        text |= {"global_head_dim": 16}
        text |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 1024}
    inside = {**text, "model_type": SEEING[family]}
    config = AutoConfig.for_model(family, text_config=inside, vision_config=EYES)
    torch.manual_seed(0)
    model_loader(family).from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(shipped_file("workbench:demo/model") / name, folder)
    return folder
