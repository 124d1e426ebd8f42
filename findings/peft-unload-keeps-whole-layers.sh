#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `unload()` is to "return the base model by removing all the PEFT modules". For plain LoRA it does. Where the adapter
# trained whole layers too (`modules_to_save`, such as the head or the embedding for new tokens), the trained layers
# stay in the model, without a warning: base and adapter are mixed. Who scores an adapter, unloads it and scores
# "the base", or unloads one adapter to load the next, measures a model that nobody has. `disable_adapter()` computes
# the base in each case, and single tokens' embeddings (`trainable_token_indices`) are given back by both.
#
# What the workbench does: it scores the base and every adapter in turn by switching adapters, never by unloading;
# an adapter with whole layers is merged, and then unloading is meant to keep them (workbench/training/model/merge.py).
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
from peft.tuners.tuners_utils import BaseTuner
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore", FutureWarning)
ROWS = torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(0))
KINDS = {
    "matrices alone": {},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "norms": {"modules_to_save": ["norm"]},
    "two tokens": {"trainable_token_indices": [3, 5]},
}


def base() -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    )


def loss(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return round(model.eval()(input_ids=ROWS, labels=ROWS).loss.item(), 3)


def trained(kind: str) -> None:
    """Train an adapter of this kind on the rows, and save it."""
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **KINDS[kind])
    model = get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(30):
        model(input_ids=ROWS, labels=ROWS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(kind)


assert "Return the base model by removing all the PEFT modules" in BaseTuner.unload.__doc__
before = loss(base())
for kind in KINDS:
    trained(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = PeftModel.from_pretrained(base(), kind)
        adapted = loss(model)
        with model.disable_adapter():
            disabled = loss(model)
        unloaded = loss(model.unload())
    print(f"{kind:15} base {before}, with the adapter {adapted}, disabled {disabled}, unloaded {unloaded}")
    assert disabled == before
    assert abs(adapted - before) > 0.1, kind
    assert (unloaded != before) == ("modules_to_save" in KINDS[kind]), kind
PY
echo "unchanged"
