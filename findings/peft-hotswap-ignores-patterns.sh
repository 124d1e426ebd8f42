#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `hotswap_adapter` puts a saved adapter's weights in the place of a loaded one's. It computes each layer's scale
# again, from `lora_alpha` and `r` alone: `alpha_pattern` and `rank_pattern` are looked up by the name of the
# weight (`…q_proj.lora_A.default.weight`), and patterns match ends of modules' names, so none does. Adapters
# whose patterns differ are refused, equal ones pass. So an adapter with patterns that is swapped for itself
# computes something else afterwards, without a warning; without patterns it computes the same.
#
# What the workbench does: it never swaps in place. Adapters that share a base are each added with their own
# settings (workbench/training/model/saved_adapter.py).
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

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
IDS = torch.tensor([[3, 1, 4, 1, 5]])
KINDS = {
    "no patterns": {},
    "alpha_pattern": {"alpha_pattern": {"q_proj": 64}},
    "rank_pattern": {"rank_pattern": {"q_proj": 16}},
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    )


def measured(model: torch.nn.Module) -> tuple[float, torch.Tensor]:
    """Return the scale of the first layer's q_proj, and the logits."""
    query = next(m for name, m in model.named_modules() if name.endswith("layers.0.self_attn.q_proj"))
    with torch.no_grad():
        return query.scaling["default"], model.eval()(input_ids=IDS).logits


for kind, patterns in KINDS.items():
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **patterns
    )
    get_peft_model(base(), config).save_pretrained(kind)
    model = PeftModel.from_pretrained(base(), kind)
    scale, logits = measured(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hotswap_adapter(model, kind, "default")  # the adapter that is there already
    scale_after, logits_after = measured(model)
    same = torch.allclose(logits, logits_after, atol=1e-6)
    print(f"{kind:13}  scale of q_proj {scale:4} -> {scale_after:3}  {'equal' if same else 'other'} logits")
    assert scale_after == 2.0, kind
    assert same == (kind == "no patterns"), kind
PY
echo "unchanged"
