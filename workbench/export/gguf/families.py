"""Rules by which each family's weights and settings are written to GGUF.

The rules are those of llama.cpp's convert_hf_to_gguf.py: which rotary layout the runtime computes,
whether a norm's weight is stored plus one, and which settings it reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from workbench.errors import ModelError
from workbench.text import safe_line


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp."""

    arch: str
    """Its name in `gguf.MODEL_ARCH`, in lower case."""
    rotates_pairs: bool = False
    """Queries and keys are stored in the order of neighbouring pairs, not of halves."""
    norms_plus_one: bool = False
    """Norms multiply by 1 + weight, and the file stores the sum."""
    swa_base: bool = False
    """Layers with a sliding window have a rotary base of their own."""


FAMILIES = {
    "llama": Family("llama", rotates_pairs=True),
    "mistral": Family("llama", rotates_pairs=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", norms_plus_one=True),
    "gemma2": Family("gemma2", norms_plus_one=True),
    "gemma3_text": Family("gemma3", norms_plus_one=True, swa_base=True),
    "phi3": Family("phi3"),
}
"""transformers' model types to families."""


def family_of(config: Any) -> Family:
    """Return the family of a configuration; raise ModelError for one that cannot be written."""
    kind = str(config.model_type)
    if kind not in FAMILIES:
        raise ModelError(
            f"a {safe_line(kind, 60)} model cannot be written as GGUF here",
            hint=f"known: {', '.join(FAMILIES)}; or convert the merged folder with llama.cpp's "
            "convert_hf_to_gguf.py",
        )
    scale = getattr(config, "query_pre_attn_scalar", None)
    if scale is not None and scale != head_size(config):
        raise ModelError(
            f"its query_pre_attn_scalar is {scale}, and GGUF takes the head's size",
            hint="convert the merged folder with llama.cpp's convert_hf_to_gguf.py",
        )
    _rope(config)
    return FAMILIES[kind]


def head_size(config: Any) -> int:
    """Return the width of one attention head."""
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def stored_weight(family: Family, config: Any, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight of transformers in GGUF's layout."""
    if family.norms_plus_one and name.endswith("norm.weight"):
        return weight.float() + 1
    if family.rotates_pairs and ".q_proj." in name:
        return to_pairs(weight, int(config.num_attention_heads))
    if family.rotates_pairs and ".k_proj." in name:
        return to_pairs(weight, int(config.num_key_value_heads))
    return weight


def to_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder each head's rows from two halves to neighbouring pairs."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_settings(writer: Any, family: Family, config: Any, vocabulary: int) -> None:
    """Write the architecture's settings."""
    head = head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(vocabulary)
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_rope_dimension_count(int(head * float(rope.get("partial_rotary_factor", 1.0))))
    if rope.get("rope_type", "default") == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if family.swa_base:
        local = _parameters(config).get("sliding_attention") or {}
        writer.add_rope_freq_base_swa(float(local.get("rope_theta", 10_000.0)))
    window = getattr(config, "sliding_window", None)
    if window and family.arch in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(int(window))
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(float(cap))
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(float(cap))


def rope_factors(config: Any) -> np.ndarray[Any, Any] | None:
    """Return Llama 3's divisors of the rotary frequencies, fp32; None for other models.

    Source: transformers' modeling_rope_utils, `_compute_llama3_parameters`.
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    head, factor = head_size(config), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    found = []
    for place in range(0, head, 2):
        length = 2 * math.pi * float(rope["rope_theta"]) ** (place / head)
        if length < context / high:
            found.append(1.0)
        elif length > context / low:
            found.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, dtype=np.float32)


def _parameters(config: Any) -> Mapping[str, Any]:
    return dict(getattr(config, "rope_parameters", None) or {})


def _rope(config: Any) -> Mapping[str, Any]:
    """Return the rotary settings; raise ModelError for a scaling that cannot be written."""
    rope = _parameters(config)
    rope = dict(rope.get("full_attention") or rope)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise ModelError(
            f"its rotary scaling {safe_line(kind, 40)} cannot be written as GGUF here",
            hint="convert the merged folder with llama.cpp's convert_hf_to_gguf.py",
        )
    return rope
