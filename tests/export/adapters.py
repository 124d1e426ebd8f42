"""Adapters with random numbers, saved by PEFT, and rows to compare models on."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.training.model.bases import TOKENIZER
from workbench.training import libraries

ROWS = 16


def random_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """Save an adapter whose matrices, and whole weights beside them, are random."""
    libraries.silence_loggers()  # PEFT asks transformers for a name that is deprecated
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    about: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "init_lora_weights": False,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of embeddings that were tied
        adapted = get_peft_model(model, LoraConfig(**(about | settings)))
    with torch.no_grad():
        for name, param in adapted.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                param.mul_(0.1)
            if "modules_to_save" in name or "magnitude" in name:
                param.mul_(1.0 + 0.1 * torch.rand_like(param))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    for name in TOKENIZER:
        shutil.copy(base / name, folder)
    return folder


def random_rows(folder: Path, count: int = ROWS) -> Path:
    """Write rows of random tokens as the preparation does."""
    torch.manual_seed(2)
    rows = [torch.randint(3, 490, (24,)).tolist() for _ in range(count)]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    data.save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    return file
