"""An NF4 model with the shape of a real one and random weights, made on the card in seconds."""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

LLAMA: dict[str, Any] = {
    "vocab_size": 128_256,
    "max_position_embeddings": 8_192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "pad_token_id": 128_002,
}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32},
    "3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
        "num_attention_heads": 24, "tie_word_embeddings": True,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048, "pad_token_id": 0,
    },
}  # fmt: skip
"""Llama 3 8B, Llama 3.2 3B and 1B, and one to try the script with."""


def make_nf4_model(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """As from_pretrained with the guide's quantisation would give it: NF4, doubly quantised."""
    config = AutoConfig.for_model("llama", **(LLAMA | SHAPES[shape]))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    torch.manual_seed(0)
    for parent in model.model.layers.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _nf4(child, device, dtype))
    _fill(model, device, dtype)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.tie_weights()
    model.is_loaded_in_4bit = True
    model.requires_grad_(False)
    return model.eval()


def _drawn(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, device=device, dtype=dtype).normal_(0.0, 0.02)


def _nf4(linear: nn.Linear, device: torch.device, dtype: torch.dtype) -> nn.Module:
    sizes = linear.in_features, linear.out_features
    packed = bnb.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, device="meta")
    packed.weight = bnb.nn.Params4bit(
        _drawn(linear.weight.shape, device, dtype),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
    )
    packed.__dict__["support_avx512bf16_for_cpu"] = False
    return packed.to(device)


def _fill(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    for module in model.modules():
        for name, param in list(module._parameters.items()):
            if param is not None and param.device.type == "meta":
                norm = param.ndim == 1
                value = torch.ones if norm else _drawn
                made = value(param.shape, device=device, dtype=dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=False)
