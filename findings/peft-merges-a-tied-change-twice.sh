#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# A base whose head is its embedding is adapted on the embedding. PEFT warns that merging can be a problem unless
# `ensure_weight_tying=True` is set. With it, embedding and head get one change that they share, training and loading
# are right and that warning is gone. `merge_and_unload` then adds the change to the one weight twice, once for each of
# its names, in memory and on disk. At merging a general warning comes ("can lead to complications") that advises to
# load the base with head and embedding untied. On such a base the same adapter is loaded on the module that its
# configuration names alone, and the other one's half is left out: a third result ("no tied modules were found" is
# warned of). Cloning the head's weight after loading and before merging is right. Related: huggingface/peft, issues
# 2018, 2777 and 2864.
#
# What the workbench does: it gives the head a weight of its own before it merges such a LoRA
# (workbench/training/model/merge.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'peft==0.21.2' 'torch==2.13.0' 'transformers==5.24.0'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import logging
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

logging.disable()
disable_progress_bar()
ROWS = torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(0))


def base(tied: bool = True) -> LlamaForCausalLM:
    torch.manual_seed(1)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def loss(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return round(model.eval()(input_ids=ROWS, labels=ROWS).loss.item(), 3)


def adapted(folder: str, ensure: bool, targets: list[str]) -> tuple[float, bool]:
    """Train and save an adapter; return its loss, and True where tied weights were warned of."""
    config = LoraConfig(
        r=4, target_modules=targets, task_type="CAUSAL_LM", ensure_weight_tying=ensure, init_lora_weights=True
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(30):
        model(input_ids=ROWS, labels=ROWS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return loss(model), any("ensure_weight_tying" in str(one.message) for one in seen)


def loaded(folder: str, tied: bool = True) -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base(tied), folder)


def merged(model: PeftModel) -> float:
    """Return the loss of the merged model, which is the same in memory and read from disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = model.merge_and_unload()
        whole.save_pretrained("merged")
        found = loss(whole)
        assert loss(AutoModelForCausalLM.from_pretrained("merged")) == found
    return found


def cloned(model: PeftModel) -> PeftModel:
    """Return the model with a head of its own below the head's adapter."""
    head = model.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    return model


print("base", loss(base()))
_, warned = adapted("without", False, ["q_proj", "embed_tokens"])
print("without ensure_weight_tying: warned", warned)
assert warned
for targets in (["q_proj", "embed_tokens"], ["q_proj", "lm_head"], ["q_proj", "down_proj"]):
    trained, warned = adapted("tied", True, targets)
    seen = {
        "loaded": loss(loaded("tied")),
        "merged": merged(loaded("tied")),
        "on an untied base": loss(loaded("tied", tied=False)),
        "cloned, merged": merged(cloned(loaded("tied"))),
    }
    print(f"{targets}: warned {warned}, trained {trained}, {seen}")
    wrong = [way for way, value in seen.items() if abs(value - trained) > 0.1]
    exact = [way for way, value in seen.items() if value == trained]
    if targets[1] == "down_proj":
        assert len(exact) == 4
    else:
        assert not warned
        assert wrong == ["merged", "on an untied base"] and exact == ["loaded", "cloned, merged"], targets

config = LoraConfig(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True, init_lora_weights=False)
warnings.simplefilter("ignore")
model = get_peft_model(base(), config)
change = model.base_model.model.model.embed_tokens.get_delta_weight("default")
difference = model.merge_and_unload().lm_head.weight - base().lm_head.weight
times = (difference / change).median().item()
print(f"the weight changed by {times:.3f} times the adapter's change")
assert abs(times - 2) < 1e-3
PY
echo "unchanged"
