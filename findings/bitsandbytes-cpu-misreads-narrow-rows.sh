#!/usr/bin/env bash
# bitsandbytes 0.50.2, seen on 2026-11-30 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# 4-bit weights are quantised in blocks of 64 values that run on from one row to the next, so a row may have any even
# length. On a CPU `dequantize_4bit` reads them back as if every row began a new block: where a row's length is no
# multiple of the block, each value is multiplied with the scale of another block. Nothing warns. For normal random
# weights of 64 x 96 the error grows from 0.09 to 0.28 (root mean square, of a standard deviation of 1); `Linear4bit`
# and transformers' `model.dequantize()` go the same way. Asked for the same values as one long row, the same
# function gives the right ones.
#
# What the workbench does: where it dequantises on a CPU itself (merges and exports of a base that exists in 4 bits only,
# the fused step without a card) it asks for one long row (workbench/training/step/lora/frozen_weight.py). Its kernels
# on a card read blocks as they were written. Models outside the fused step run bitsandbytes' own layers, on a CPU with
# this error.
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'bitsandbytes==0.50.2' 'torch==2.13.0'
cd "$folder"
venv/bin/python - <<'PY'
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit


def error(got: torch.Tensor, weight: torch.Tensor) -> float:
    return round(float((got.view(weight.shape) - weight).pow(2).mean().sqrt()), 2)


found = {}
for rows, inputs in ((64, 128), (64, 96), (64, 32)):
    weight = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weight, quant_type="nf4")
    as_asked = error(dequantize_4bit(packed, state), weight)
    state.shape = torch.Size([weight.numel()])
    found[inputs] = as_asked, error(dequantize_4bit(packed, state), weight)
    print(f"rows of {inputs:3}: error {found[inputs][0]:.2f}, as one long row {found[inputs][1]:.2f}")
assert found == {128: (0.09, 0.09), 96: (0.28, 0.09), 32: (0.41, 0.09)}, found
PY
