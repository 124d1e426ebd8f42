#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `alpha_pattern` gives single modules an alpha of their own. Where several entries match a module, the first one
# counts: the exception is written before the rule, as in {"self_attn.q_proj": 64, ".*_proj": 16}.
# `save_pretrained` writes adapter_config.json with sorted keys, so that `.*_proj` is the first entry of the saved
# adapter. Loaded again, q_proj has another alpha and the adapter computes something else, without a warning. So it is
# with names alone, as in {"self_attn.q_proj": 64, "q_proj": 16}. Entries that come sorted, or of which only one
# matches a module, stay as they are. Entries of `rank_pattern` change places too; then loading raises an error,
# because the sizes differ.
#
# What the workbench does: it has no such patterns of its own. It refuses an adapter from elsewhere whose
# `alpha_pattern` has an entry behind another one that takes all its modules (workbench/adapters/lora_settings.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'peft==0.21.2' 'torch==2.13.0' 'transformers==5.24.0'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore", FutureWarning)
IDS = torch.tensor([[3, 1, 4, 1, 5]])
PATTERNS = {
    "exception first": {"self_attn.q_proj": 64, ".*_proj": 16},
    "longer name first": {"self_attn.q_proj": 64, "q_proj": 16},
    "one entry a module": {"self_attn.q_proj": 64, "self_attn.k_proj": 16},
    "sorted": {"layers.0.self_attn.q_proj": 64, "q_proj": 16},
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    )


def measured(model: torch.nn.Module) -> tuple[list[float], torch.Tensor]:
    """Return the alpha of q_proj in both layers, and the logits."""
    queries = [m for name, m in model.named_modules() if name.endswith("self_attn.q_proj")]
    with torch.no_grad():
        return [m.scaling["default"] * 4 for m in queries], model.eval()(input_ids=IDS).logits


for kind, pattern in PATTERNS.items():
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"], init_lora_weights=False, alpha_pattern=pattern
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = get_peft_model(base(), config)
        model.save_pretrained(kind)
        again = PeftModel.from_pretrained(base(), kind)
    saved = json.loads(Path(kind, "adapter_config.json").read_text())["alpha_pattern"]
    (before, logits), (after, logits_again) = measured(model), measured(again)
    same = torch.allclose(logits, logits_again)
    print(f"{kind:18} saved as {saved}: alpha {before} -> {after}, {'equal' if same else 'other'} logits")
    assert list(saved) == sorted(pattern)
    assert before == ([64, 16] if kind == "sorted" else [64, 64]), kind
    assert same == (kind in ("one entry a module", "sorted")), kind
    assert after == (before if same else [16, 16]), kind

config = LoraConfig(r=4, target_modules=["q_proj"], rank_pattern={"self_attn.q_proj": 8, "q_proj": 2})
get_peft_model(base(), config).save_pretrained("ranks")
try:
    PeftModel.from_pretrained(base(), "ranks")
except RuntimeError as error:
    assert "size mismatch" in str(error)
    print("ranks              size mismatch on loading")
else:
    raise AssertionError("ranks load now")
PY
echo "unchanged"
