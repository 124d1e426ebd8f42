"""Models with the shape of a real one and random weights: all that costs bytes and time."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.footprint import named_config
from workbench.recipe import shipped_file


def write_shaped_model(folder: Path, shape: str, device: str = "cuda") -> Path:
    """A bf16 checkpoint of `shape` (a name of footprint.shapes) with the demo's tokenizer.

    Nothing is done when `folder` holds one already. An 8B shape takes 16 GB and about 25 s.
    """
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = dict(named_config(shape))
    config = AutoConfig.for_model(**known)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    for file in shipped_file("workbench:demo/model").iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder / file.name)
    del model
    torch.cuda.empty_cache()
    return folder
