#!/usr/bin/env bash
# transformers 5.24.0 with gguf 0.19.0, seen on 2026-11-29 (Python 3.11, Linux x86_64, torch 2.13.0 on the CPU).
#
# A GGUF file holds how positions are scaled: `rope.scaling.type` and `rope.scaling.factor` for linear scaling, the
# tensor `rope_freqs.weight` for that of Llama 3.1 to 3.3. `from_pretrained(…, gguf_file=…)` reads neither for a
# Llama; its configuration has the plain rotary embedding. All weights come back exactly, nothing is logged, and
# without scaling the logits are equal; with it every token behind the first gets other logits.
#
# What the workbench does: it writes both kinds for llama.cpp, and scores the file by llama.cpp where that is
# installed, never by transformers (docs/adapters.md).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    'gguf==0.19.0' 'torch==2.13.0' 'transformers==5.24.0' 'accelerate==1.15.0'
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import contextlib
import io
import logging

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.logging import add_handler, disable_progress_bar

disable_progress_bar()
WORDS, HEADS, THETA = 64, 2, 10_000.0
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = {"default": {}, "linear": {"factor": 4.0}, "llama3": {"factor": 8.0, **LLAMA_3}}
IDS = torch.randint(3, WORDS, (1, 256), generator=torch.Generator().manual_seed(0))


def model(kind: str) -> LlamaForCausalLM:
    torch.manual_seed(1)
    rotary = {"rope_type": kind, "rope_theta": THETA, **SCALINGS[kind]}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=64, intermediate_size=64, num_hidden_layers=2, initializer_range=0.2,
            num_attention_heads=HEADS, max_position_embeddings=512, rope_parameters=rotary,
        )
    ).eval()  # fmt: skip


def write(made: LlamaForCausalLM, kind: str) -> None:
    """Write the model as llama.cpp's converter lays it out."""
    config = made.config
    writer = gguf.GGUFWriter(f"{kind}.gguf", "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(THETA)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"w{number}" for number in range(WORDS)])
    writer.add_token_merges([])
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(SCALINGS[kind]["factor"])
    if kind == "llama3":
        plain = THETA ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
        scaled, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        writer.add_tensor("rope_freqs.weight", (plain / scaled).numpy())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in made.state_dict().items():
        values = weight.numpy()
        if "q_proj" in name or "k_proj" in name:  # halves of a head become neighbours
            values = values.reshape(HEADS, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


log = io.StringIO()
add_handler(logging.StreamHandler(log))
for kind in SCALINGS:
    made = model(kind)
    write(made, kind)
    with contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{kind}.gguf").eval()
    weights = all(torch.equal(weight, read.state_dict()[name]) for name, weight in made.state_dict().items())
    with torch.no_grad():
        before, after = made(input_ids=IDS).logits, read(input_ids=IDS).logits
    equal = torch.isclose(before, after, atol=1e-4).all(-1)[0]
    likeliest = (before.argmax(-1) == after.argmax(-1)).float().mean().item()
    print(
        f"{kind:8}read as {read.config.rope_parameters['rope_type']}: weights {'equal' if weights else 'other'}, "
        f"equal logits for {int(equal.sum())} of {len(equal)} tokens, same likeliest token for {likeliest:.0%}"
    )
    assert weights
    assert read.config.rope_parameters == {"rope_type": "default", "rope_theta": THETA}, kind
    assert bool(equal.all()) if kind == "default" else likeliest < 0.95, kind
assert "rope" not in log.getvalue()
PY
echo "unchanged"
