#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-30 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `add_weighted_adapter` "adds a new adapter by merging the given adapters with the given weights". Of a single adapter
# with weight 1 it makes the same one again where that holds low-rank matrices alone. What else the adapter was trained
# with is left out, in the three ways of combining tried here and without a warning: whole layers (`modules_to_save`,
# such as the head or the embedding for new tokens), the embeddings of single tokens (`trainable_token_indices`), and
# DoRA's magnitudes, for which the base's own norms stand in. The new adapter's loss is then near the base's or between
# the two. (Two adapters with whole layers of the same name are refused; `bias="lora_only"` is, too.)
#
# What the workbench does: it averages adapters by its own `workbench soup`, which refuses those that hold more than
# low-rank matrices (workbench/export/soup.py, workbench/adapters/lora_settings.py).
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
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraModel
from transformers import LlamaConfig, LlamaForCausalLM

ROWS = torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(0))
KINDS = {
    "matrices alone": {},
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "two tokens": {"trainable_token_indices": [3, 5]},
    "DoRA": {"use_dora": True},
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


assert "merging the given adapters with the given weights" in LoraModel.add_weighted_adapter.__doc__
before = loss(base())
for kind, settings in KINDS.items():
    for how in ("linear", "cat", "svd"):
        config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(base(), config, adapter_name="own")
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(30):
            model(input_ids=ROWS, labels=ROWS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        own = loss(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.add_weighted_adapter(["own"], [1.0], "again", combination_type=how)
            model.set_adapter("again")
        again = loss(model)
        print(f"{kind:15} {how:7} base {before}, the adapter {own}, its weighted sum {again}")
        assert abs(own - before) > 0.005, kind
        if kind == "matrices alone":
            assert abs(again - own) <= 0.001
        else:
            assert abs(again - own) > 0.005, kind
PY
echo "unchanged"
