#!/usr/bin/env bash
# transformers 5.24.0 with bitsandbytes 0.50.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `BitsAndBytesConfig(load_in_4bit=True)` leaves the output head in its own dtype. `llm_int8_skip_modules`, which
# goes for 4 bits too, names layers that shall stay as they are; it replaces that default instead of adding to
# it. So who keeps one sensitive layer in full precision, or an encoder beside the language model, gets a head
# in NF4, and a model that is further from the original than without the setting. Nothing is logged. Where
# the head is the embedding, the model loads and its first forward raises an AssertionError. A name that no
# layer begins with (`layers.1` for `model.layers.1`) keeps nothing and quantises the head all the same.
#
# What the workbench does: it never sets that list (workbench/training/model/base.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'bitsandbytes==0.50.2' 'torch==2.13.0' 'transformers==5.24.0' 'accelerate==1.15.0'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2> stderr <<'PY' || { cat stderr; exit 1; }
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()
IDS = torch.randint(3, 64, (1, 32), generator=torch.Generator().manual_seed(0))
SENSITIVE = "model.layers.1.mlp.down_proj"


def outcome(skip: list[str] | None, tied: bool) -> tuple[list[str], float | None]:
    """Return the layers that are not in 4 bits, and how far the logits are off; None where it raises."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    exact = LlamaForCausalLM(shape).eval()
    exact.save_pretrained("model")
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skip)
    model = AutoModelForCausalLM.from_pretrained("model", quantization_config=quantisation).eval()
    kept = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    with torch.no_grad():
        logits = exact(input_ids=IDS).logits
        try:
            error = (model(input_ids=IDS).logits - logits).norm() / logits.norm()
        except AssertionError:
            return kept, None
    return kept, round(error.item(), 3)


seen = {}
for tied in (False, True):
    for skip in (None, [SENSITIVE], ["layers.1"], [SENSITIVE, "lm_head"]):
        kept, error = seen[tied, str(skip)] = outcome(skip, tied)
        print(f"head tied {tied!s:5}  skip {skip}: not in 4 bits {kept}, error {error or 'AssertionError'}")
for tied in (False, True):
    assert seen[tied, "None"][0] == ["lm_head"]
    assert seen[tied, str([SENSITIVE])][0] == [SENSITIVE]
    assert seen[tied, "['layers.1']"][0] == []
    assert seen[tied, str([SENSITIVE, "lm_head"])][0] == [SENSITIVE, "lm_head"]
assert seen[False, str([SENSITIVE])][1] > 1.2 * seen[False, "None"][1]
assert seen[True, str([SENSITIVE])][1] is None
PY
echo "unchanged"
