"""Weights that some families have beside, or in place of, those of a Llama of their sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Measure = Callable[..., int]
"""Reads a whole number from a config.json: measure(config, name, default=...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraWeights:
    """Numbers to add to those of a uniform gated decoder; they may be negative."""

    linear: int = 0
    """Parameters of linear layers, which are quantised."""
    other: int = 0
    """Parameters that stay in 16 bits."""
    sides: int = 0
    """Inputs plus outputs of linear layers: an adapter has its rank times as many parameters."""


def extra_weights(
    kind: str, config: Mapping[str, Any], measure: Measure, layers: int
) -> ExtraWeights:
    """Return what a model of that model_type has beyond a uniform gated decoder.

    `config` is the text model's config.json, `measure` reads a checked whole number from it.
    """
    if kind.startswith("gemma4"):
        return _gemma4(config, measure, layers)
    if kind.startswith("qwen3_5"):
        return _qwen3_5(config, measure, layers)
    return ExtraWeights()


def _gemma4(config: Mapping[str, Any], measure: Measure, layers: int) -> ExtraWeights:
    """Return those of Gemma 4: per-layer embeddings, wider global layers, double-wide blocks.

    Layers that reuse others' keys and values are counted with weights for them, which errs upward.
    """
    width = measure(config, "hidden_size")
    heads = measure(config, "num_attention_heads")
    head_dim = measure(config, "head_dim", default=256)
    kv_heads = measure(config, "num_key_value_heads", default=heads)
    # Global layers have heads of their own size, and may have fewer keys and values.
    wide = measure(config, "global_head_dim", default=512)
    same = bool(config.get("attention_k_eq_v"))
    wide_kv = measure(config, "num_global_key_value_heads", default=kv_heads) if same else kv_heads
    query_out = 2 * heads * (wide - head_dim)
    key_value = (1 if same else 2) * wide_kv * wide - 2 * kv_heads * head_dim
    sides = _layers_of(config, "full_attention", layers, 6) * (query_out + key_value)
    if config.get("use_double_wide_mlp") and config.get("num_kv_shared_layers"):
        reusing = min(layers, measure(config, "num_kv_shared_layers"))
        sides += reusing * 3 * measure(config, "intermediate_size")
    # Every layer gets an embedding of its own for each token: a table of vocab × layers × 256.
    if config.get("hidden_size_per_layer_input", 256) == 0:
        return ExtraWeights(linear=sides * width, sides=sides)
    each = measure(config, "hidden_size_per_layer_input", default=256)
    vocab = measure(config, "vocab_size_per_layer_input", default=262_144)
    return ExtraWeights(
        linear=sides * width + 3 * layers * width * each,
        other=layers * (vocab * each + width),
        sides=sides + layers * (2 * width + 3 * each) + width,
    )


def _qwen3_5(config: Mapping[str, Any], measure: Measure, layers: int) -> ExtraWeights:
    """Return those of Qwen 3.5: gated queries in full attention, and linear attention (gated delta
    nets) in the other layers."""
    width = measure(config, "hidden_size")
    q_width = measure(config, "num_attention_heads") * measure(config, "head_dim", default=256)
    kv_width = measure(config, "num_key_value_heads", default=4) * (
        measure(config, "head_dim", default=256)
    )
    key_heads = measure(config, "linear_num_key_heads", default=16)
    value_heads = measure(config, "linear_num_value_heads", default=32)
    keys = key_heads * measure(config, "linear_key_head_dim", default=128)
    values = value_heads * measure(config, "linear_value_head_dim", default=128)
    full = _layers_of(config, "full_attention", layers, 4)
    uniform = 2 * q_width + 2 * kv_width
    delta = 2 * keys + 3 * values + 2 * value_heads  # in_proj_qkv, z, b and a, and out_proj
    outs = full * q_width + (layers - full) * (delta - uniform)
    # Five products in place of four read the residual stream.
    return ExtraWeights(linear=width * outs, sides=outs + (layers - full) * width)


def _layers_of(config: Mapping[str, Any], kind: str, layers: int, interval: int) -> int:
    """Return how many layers are of that kind; without a list, every `interval`-th is."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return min(layers, kinds.count(kind))
    stated = config.get("full_attention_interval")
    every = stated if isinstance(stated, int) and stated > 0 else interval
    return layers // every
