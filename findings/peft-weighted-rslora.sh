#!/usr/bin/env bash
# peft 0.21.2, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# `add_weighted_adapter` makes one adapter of several. Of a single adapter with weight 1 it should make the
# same one again, and does so for plain LoRA, whatever rank and alpha are. For an adapter with
# `use_rslora=True` the sum is √rank times too strong: the weights already hold the scale of the summands,
# and the new adapter's configuration, whose alpha is its rank so that it adds none, keeps `use_rslora`, by
# which alpha is divided by √rank. Ranks 4 and 16 give factors 2 and 4, without a warning.
#
# What the workbench does: it saves rsLoRA as plain LoRA with the scale in alpha
# (workbench/training/model/adapter.py), and averages adapters by its own `workbench soup`.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'peft==0.21.2' 'torch==2.13.0' 'transformers==5.24.0'
cd "$folder"
venv/bin/python - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

INPUT = torch.ones(1, 32)


def strength_of_sum(rank: int, rslora: bool, how: str) -> float:
    """Return what the sum of one adapter with weight 1 adds, as a multiple of what the adapter adds."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(32, 32))
    plain = base(INPUT).detach()
    config = LoraConfig(
        r=rank, lora_alpha=24, use_rslora=rslora, target_modules=["0"], init_lora_weights=False
    )
    model = get_peft_model(base, config, adapter_name="one").eval()
    model.add_weighted_adapter(["one"], [1.0], "sum", combination_type=how)
    added = {}
    for name in ("one", "sum"):
        model.set_adapter(name)
        with torch.no_grad():
            added[name] = model(INPUT) - plain
    return round(float(added["sum"].norm() / added["one"].norm()), 3)


seen = {
    (rank, rslora, how): strength_of_sum(rank, rslora, how)
    for rank in (4, 16)
    for rslora in (False, True)
    for how in ("linear", "cat", "svd")
}
for (rank, rslora, how), times in seen.items():
    print(f"rank {rank:2}  use_rslora {rslora!s:5}  {how:6}  {times} times the adapter")
for (rank, rslora, _), times in seen.items():
    assert times == (rank**0.5 if rslora else 1.0), "no longer so"
PY
echo "unchanged"
