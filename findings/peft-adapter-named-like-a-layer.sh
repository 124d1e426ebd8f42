#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-28 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# A model holds two LoRA adapters, one of them named "1" (a seed, a trial's id, a rank). `save_pretrained`
# writes each into a folder of its own. The file of the *other* adapter lacks the weights of layer 1: keys
# of other adapters are left out by looking for ".1." anywhere in a key, and "layers.1." has it too.
# Saving says nothing. The saved adapter computes something else; loading it only warns of missing keys.
#
# What the workbench does: adapters that share a base get names that no module can have
# (workbench/training/evaluation/chat_run.py), and what PEFT returns is compared with what was loaded
# (workbench/training/model/saved_adapter.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'peft==0.21.2' 'torch==2.13.0' 'transformers==5.24.0'
cd "$folder"
venv/bin/python - <<'PY'
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
shape = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2
)
IDS = torch.tensor([[3, 1, 4, 1, 5]])


def base(seed_after: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape)
    torch.manual_seed(seed_after)  # of what PEFT draws: weights that are missing would be drawn alike
    return model


def config() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


def save_beside(second: str) -> tuple[list[int], bool]:
    """Return the layers in the first adapter's file, and whether it computes the same again."""
    model = get_peft_model(base(1), config(), adapter_name="first")
    model.add_adapter(second, config())
    model.set_adapter("first")
    model.eval()
    model.save_pretrained(second)
    folder = Path(second) / "first"
    keys = load_file(folder / "adapter_model.safetensors")
    layers = sorted({int(key.split(".layers.")[1].split(".")[0]) for key in keys})
    again = PeftModel.from_pretrained(base(2), str(folder)).eval()
    with torch.no_grad():
        same = torch.allclose(model(input_ids=IDS).logits, again(input_ids=IDS).logits)
    return layers, same


seen = {name: save_beside(name) for name in ("1", "second")}
print(seen)
assert seen == {"1": ([0, 2], False), "second": ([0, 1, 2], True)}
PY
echo "unchanged"
