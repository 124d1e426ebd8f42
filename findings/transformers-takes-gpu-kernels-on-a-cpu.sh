#!/usr/bin/env bash
# transformers 5.24.0 with flash-linear-attention 0.6.0 and Triton 3.7.1, seen on 2026-11-30 (Python 3.11, Linux x86_64,
# torch 2.13.0, no GPU).
#
# transformers takes the kernels of flash-linear-attention for the gated delta layers of Qwen 3.5 where that package can
# be imported, when the model's module is imported: neither the device of the tensors nor its own
# `is_flash_linear_attention_available()`, which is False here, is asked. So a model on a CPU that computed before the
# package was installed raises an error afterwards: "0 active drivers". It is so for a process of a machine with GPUs that
# hides them, too, as a merge on the CPU does. The same decorator serves causal-conv1d and mamba-ssm.
#
# What the workbench does: where it computes on a CPU (trials there, merges and other exports) it makes the three packages
# look as if they were not installed (`hide_kernel_packages` in workbench/machine/packages.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip 'transformers==5.24.0' 'torch==2.13.0'
cd "$folder"
cat > forward.py <<'PY'
import warnings

warnings.simplefilter("ignore")
import torch
from transformers import AutoModelForCausalLM, Qwen3_5TextConfig
from transformers.utils.import_utils import is_flash_linear_attention_available

heads = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
heads |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 128}
config = Qwen3_5TextConfig(
    num_attention_heads=2, num_key_value_heads=1, head_dim=32, **heads, **sizes
)
model = AutoModelForCausalLM.from_config(config)
try:
    model(input_ids=torch.arange(1, 20)[None])
    said = "computes"
except RuntimeError as error:
    said = str(error)
print(f"available: {is_flash_linear_attention_available()}; {said}")
PY
before=$(CUDA_VISIBLE_DEVICES= venv/bin/python forward.py 2>/dev/null)
pip --no-deps 'flash-linear-attention==0.6.0' 'fla-core==0.6.0' 'einops==0.8.2' 'triton==3.7.1'
after=$(CUDA_VISIBLE_DEVICES= venv/bin/python forward.py 2>/dev/null)
echo "without the package: $before"
echo "with the package:    $after"
[[ $before == "available: False; computes" ]]
[[ $after == "available: False; 0 active drivers"* ]]
