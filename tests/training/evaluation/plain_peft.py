"""Adapters on the demo base, made and saved by PEFT alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from workbench.recipe import shipped_file

DEMO = str(shipped_file("workbench:demo/model"))


def save_plain(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Path:
    """Save an adapter with random weights, as a script with plain PEFT would; return its folder."""
    base = AutoModelForCausalLM.from_pretrained(DEMO)
    config = LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj", "down_proj"],
            "task_type": "CAUSAL_LM",
            **settings,
        }
    )
    model = get_peft_model(base, config)
    torch.manual_seed(1)
    for name, param in model.named_parameters():
        if "lora_" in name and "magnitude" not in name:
            param.data = torch.randn_like(param) * 0.1
    model.to(dtype).save_pretrained(str(folder))
    return folder
