#!/usr/bin/env bash
# transformers 5.24.0, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU, without
# flash-linear-attention and causal_conv1d).
#
# `DataCollatorWithFlattening` puts several rows behind one another and tells them apart by `position_ids`.
# Attention then keeps to one row: a Llama computes for the second row what it computes for it alone. That is
# so with `use_cache=False` only, as the Trainer sets it. Called without it (a loop of one's own that
# measures the held-out loss), the second row sees the first, in every family and without a warning.
#
# Layers that carry a state from token to token know nothing of `position_ids`: in Qwen 3.5 (gated delta
# rule) and in Granite 4 (Mamba) the second row sees the first whatever `use_cache` is, without a warning. With
# the collator's `return_flash_attn_kwargs=True`, Qwen 3.5 raises and names the package that is missing; Granite 4
# still says nothing. With `return_seq_idx=True` both raise.
#
# What the workbench does: where it puts rows behind one another, every layer gets the rows' ends, and Qwen 3.5's
# gated delta rule is its own (workbench/training/step/delta). Other models get rows with padding.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'transformers==5.24.0' 'torch==2.13.0'
cd "$folder"
venv/bin/python - <<'PY'
import torch
from transformers import (
    DataCollatorWithFlattening,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)
from transformers.utils.logging import set_verbosity_error

set_verbosity_error()
SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip
QWEN = Qwen3_5TextConfig(
    **SHAPE, head_dim=16, layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2,
    linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
)  # fmt: skip
GRANITE = GraniteMoeHybridConfig(
    **SHAPE, shared_intermediate_size=64, layer_types=["mamba", "attention"], num_local_experts=0,
    num_experts_per_tok=0, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, mamba_chunk_size=16,
)  # fmt: skip
MODELS = {
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "Qwen 3.5": lambda: Qwen3_5ForCausalLM(QWEN),
    "Granite 4": lambda: GraniteMoeHybridForCausalLM(GRANITE),
}
torch.manual_seed(1)
FIRST, SECOND = (torch.randint(3, 64, (count,)).tolist() for count in (7, 9))


def outcome(name: str, use_cache: bool | None, **asked: bool) -> str:
    """Compare the second row's logits, computed behind the first row, with those of the row alone."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    batch = DataCollatorWithFlattening(**asked)([{"input_ids": FIRST}, {"input_ids": SECOND}])
    del batch["labels"]
    try:
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([SECOND]), use_cache=False).logits
            behind = model(**batch, use_cache=use_cache).logits[:, len(FIRST) :]
    except ValueError as error:
        assert "can't keep packed sequences apart without" in str(error)
        return "raises"
    return "apart" if torch.allclose(behind, alone, atol=1e-5) else "mixed"


seen = {
    (name, asked, use_cache): outcome(name, use_cache, **({asked: True} if asked else {}))
    for asked in ("", "return_flash_attn_kwargs", "return_seq_idx")
    for name in MODELS
    for use_cache in (False, None)
}
for (name, asked, use_cache), what in seen.items():
    print(f"{name:9}  use_cache {use_cache!s:5}  {asked or 'position_ids alone':24}  {what}")
for (name, asked, use_cache), what in seen.items():
    if name == "Llama":
        expected = "mixed" if use_cache is None else "apart"
    elif asked == "return_seq_idx" or (name == "Qwen 3.5" and asked):
        expected = "raises"
    else:
        expected = "mixed"
    assert what == expected, (name, asked, use_cache)
PY
echo "unchanged"
