"""Models with the shape of real ones and random weights, made on the card in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from workbench.footprint import named_config
from workbench.recipe import shipped_file

SHAPES = {
    "8b": "llama-3.1-8b", "3b": "llama-3.2-3b", "1b": "llama-3.2-1b", "qwen3": "qwen3-4b",
    "gemma3": "gemma-3-1b", "phi3": "phi-3-mini-4k", "qwen2.5": "qwen2.5-1.5b",
    "gemma2": "gemma-2-2b", "gemma4": "gemma-4-e4b", "gemma4-12b": "gemma-4-12b",
    "qwen3.5": "qwen3.5-9b", "ministral3": "ministral-3-8b",
}  # fmt: skip
"""Short names of model shapes; every other name in footprint.model.known_models works too."""
TINY: dict[str, int] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "head_dim": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048,
}  # fmt: skip
_TINY_OF_KIND: dict[str, dict[str, Any]] = {
    "gemma4_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 32, "global_head_dim": 512,
        "vocab_size_per_layer_input": 2048,
    },
    "gemma4_unified_text": {
        "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 512,
    },
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
        "linear_num_key_heads": 2, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    },
}  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def measures(shape: str) -> dict[str, Any]:
    """Return the config.json of a shape such as `8b` or `qwen3-8b`.

    Of a model that sees, too, it is the text model's. `tiny` or `tiny-qwen3` is small, to try a
    script.
    """
    tiny, _, rest = shape.partition("-") if shape.startswith("tiny") else ("", "", shape)
    name = rest or "8b"
    found = named_config(SHAPES.get(name, name))
    assert found is not None, f"{name} is no known shape"
    found = {**found.get("text_config", found)}
    return {**found, **TINY, **_TINY_OF_KIND.get(found["model_type"], {})} if tiny else found


def make_nf4_model(
    shape: str, device: torch.device, dtype: torch.dtype, *, quantised: bool = True
) -> Any:
    """Return a model as from_pretrained gives it: in NF4, doubly quantised, or else in `dtype`."""
    return _made(measures(shape), device, dtype, quantised=quantised)


def _made(
    known: dict[str, Any], device: torch.device, dtype: torch.dtype, *, quantised: bool
) -> Any:
    # The same room for positions in every shape, whatever its own config says.
    config = AutoConfig.for_model(**{**known, "max_position_embeddings": 32_768, **_TOKENS})
    attends = "eager" if known.get("attn_logit_softcapping") else "sdpa"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attends)
    torch.manual_seed(0)
    for parent in model.model.modules() if quantised else ():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _nf4(child, device, dtype))
    _fill(model, device, dtype)
    _fill_buffers(model, config, device)
    model.tie_weights()
    if quantised:
        model.is_loaded_in_4bit = True  # PEFT asks for this
    model.requires_grad_(False)
    return model.eval()


def write_shaped_model(folder: Path, shape: str, device: str = "cuda") -> Path:
    """Write a bf16 checkpoint of that shape with the demo's tokenizer, and return `folder`.

    Nothing is done where `folder` holds one already. An 8B shape takes 16 GB and about 25 s.
    """
    if (folder / "tokenizer.json").exists():
        return folder
    demo = shipped_file("workbench:demo/model")
    model = make_nf4_model(shape, torch.device(device), torch.bfloat16, quantised=False)
    model.save_pretrained(folder, max_shard_size="4GB")
    for file in demo.iterdir():
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder / file.name)
    del model
    if device != "cpu":
        torch.cuda.empty_cache()
    return folder


def _drawn(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, device=device, dtype=dtype).normal_(0.0, 0.02)


def _nf4(linear: nn.Linear, device: torch.device, dtype: torch.dtype) -> nn.Module:
    import bitsandbytes as bnb

    sizes = linear.in_features, linear.out_features
    has_bias = linear.bias is not None
    packed: nn.Module = bnb.nn.Linear4bit(*sizes, bias=has_bias, compute_dtype=dtype, device="meta")
    packed.weight = bnb.nn.Params4bit(
        _drawn(linear.weight.shape, device, dtype),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
    )
    if has_bias:
        packed.bias = nn.Parameter(_drawn(linear.bias.shape, device, dtype), requires_grad=False)
    packed.__dict__["support_avx512bf16_for_cpu"] = False
    return packed.to(device)


def _fill(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    for module in model.modules():
        for name, param in list(module._parameters.items()):
            if param is not None and param.device.type == "meta":
                norm = param.ndim == 1 and not name.endswith("bias")
                value = torch.ones if norm else _drawn
                made = value(param.shape, device=device, dtype=dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=False)


def _fill_buffers(model: Any, config: Any, device: torch.device) -> None:
    """Fill in rotary frequencies and Gemma's scale, which no checkpoint holds."""
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    for module in model.modules():
        if "embed_scale" in module._buffers:
            module._buffers["embed_scale"] = torch.tensor(module.scalar_embed_scale, device=device)
        if "layer_scalar" in module._buffers:
            module._buffers["layer_scalar"] = torch.ones(1, device=device)
    left = [name for name, buffer in model.named_buffers() if buffer.device.type == "meta"]
    assert not left, left
