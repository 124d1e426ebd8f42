#!/usr/bin/env bash
# transformers 5.24.0 with peft 0.21.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# An adapter that PEFT trained and saved loads in three ways: `PeftModel.from_pretrained`, and without PEFT's
# classes by `AutoModelForCausalLM.from_pretrained(FOLDER)` or `model.load_adapter(FOLDER)`. For plain LoRA and rsLoRA
# all three compute the same. For DoRA the latter two leave out every trained magnitude: they look for
# `lora_magnitude_vector.default.weight` where the file's name has no `.weight`, and keep the magnitudes that a fresh
# adapter begins with. Loading goes on, and a report in the log lists the names as unexpected and as missing. Here
# more than two thirds of what the adapter had learned are gone.
#
# What the workbench does: it scores and merges DoRA adapters that were trained elsewhere. They are loaded by PEFT's
# own functions, and every name of the file has to be in the model (workbench/training/model/saved_adapter.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'peft==0.21.2' 'torch==2.13.0' 'transformers==5.24.0'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

warnings.simplefilter("ignore")
set_verbosity_error()
disable_progress_bar()
torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
).save_pretrained("base")
ROWS = torch.randint(3, 64, (4, 12))
KINDS = {"LoRA": {}, "rsLoRA": {"use_rslora": True}, "DoRA": {"use_dora": True}}


def base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained("base")


def loss(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return model.eval()(input_ids=ROWS, labels=ROWS).loss.item()


def loaded_into_base(folder: str) -> LlamaForCausalLM:
    model = base()
    model.load_adapter(folder)
    return model


def trained(kind: str) -> float:
    """Train an adapter of this kind on the rows, save it, and return its loss."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **KINDS[kind])
    model = get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(40):
        model(input_ids=ROWS, labels=ROWS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(kind)
    return loss(model)


print(f"untrained {loss(base()):.3f}")
for kind in KINDS:
    before = trained(kind)
    after = {
        "PeftModel": loss(PeftModel.from_pretrained(base(), kind)),
        "AutoModel": loss(AutoModelForCausalLM.from_pretrained(kind)),
        "load_adapter": loss(loaded_into_base(kind)),
    }
    print(f"{kind:6}  trained {before:.3f}", {way: round(value, 3) for way, value in after.items()})
    for way, value in after.items():
        lost = kind == "DoRA" and way != "PeftModel"
        assert (value > before + 0.1) if lost else abs(value - before) < 1e-4, (kind, way)
PY
echo "unchanged"
