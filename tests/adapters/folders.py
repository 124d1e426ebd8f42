"""Adapter folders for tests, written as other tools write them and without any of those tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PEFT: dict[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": None,
    "base_model_name_or_path": "meta-llama/Meta-Llama-3-8B",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 16,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 8,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}
"""The configuration that PEFT 0.17 writes, which TRL's SFTTrainer saves unchanged."""

OLD_PEFT = {
    key: PEFT[key]
    for key in (
        *("base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode"),
        *("init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha"),
        *("lora_dropout", "modules_to_save", "peft_type", "r", "revision"),
        *("target_modules", "task_type"),
    )
}
"""The configuration of PEFT 0.4: no patterns, no DoRA, no rsLoRA."""

AXOLOTL = {**PEFT, "base_model_name_or_path": "NousResearch/Meta-Llama-3-8B", "use_rslora": True}
LLAMA_FACTORY = {
    **PEFT,
    "base_model_name_or_path": "/data/models/Meta-Llama-3-8B",
    "rank_pattern": {"v_proj": 4},
    "alpha_pattern": {"v_proj": 8},
}
UNSLOTH = {
    **PEFT,
    "base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit",
    "auto_mapping": {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
        "unsloth_fixed": True,
    },
    "target_modules": r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:q_proj|v_proj)))",
    "task_type": None,
}


def write_adapter(
    folder: Path,
    config: dict[str, Any],
    modules: dict[str, tuple[int, int, int]] | None = None,
    extra: dict[str, np.ndarray[Any, Any]] | None = None,
) -> Path:
    """Write a folder with random matrices; `modules` maps names to (inputs, outputs, rank)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = dict(extra or {})
    for module, (inputs, outputs, rank) in (modules or llama_modules()).items():
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            name = f"base_model.model.{module}.lora_{side}.weight"
            tensors[name] = rng.normal(size=shape).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def llama_modules(rank: int = 8, v_rank: int | None = None) -> dict[str, tuple[int, int, int]]:
    """Return the adapted projections of a small Llama of two layers."""
    ranks = {"q_proj": rank, "v_proj": v_rank or rank}
    return {
        f"model.layers.{layer}.self_attn.{name}": (32, 32, own)
        for layer in range(2)
        for name, own in ranks.items()
    }
