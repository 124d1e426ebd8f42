"""Values that a model's config.json states, checked, with the defaults of transformers' classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.errors import ModelError
from workbench.footprint.model.loadable import causal_class
from workbench.text import safe_line

_TIED_BY_DEFAULT = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4_text", "gemma4_unified_text", "smollm3",
)  # fmt: skip
SHARED_MLP = ("granitemoehybrid",)
"""Families whose dense feed-forward block is that which all experts share."""
WRAPPER_FAMILIES = frozenset({"gemma3", "gemma4", "gemma4_unified", "mistral3"})
"""model_type of models for more than text whose text model the fused step trains by itself."""
MOST_LAYERS = 4_096
"""More layers than any model has; a config.json beyond it is damaged or hostile."""
_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
_DEFAULTS: dict[str, dict[str, float]] = {
    "cwm": {"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 8192},
    "exaone4": {"sliding_window": 4096},
    "gemma2": {**_GEMMA, "vocab_size": 256_000},
    "gemma3_text": {**_GEMMA, "vocab_size": 262_208},
    "gemma4_text": {**_GEMMA, "vocab_size": 262_144},
    "gemma4_unified_text": {**_GEMMA, "vocab_size": 262_144},
    "glm4": {"num_key_value_heads": 2, "head_dim": 128},
    "ministral3": {"num_key_value_heads": 8, "head_dim": 128},
    "granitemoehybrid": {"num_local_experts": 8, "shared_intermediate_size": 1024},
    "mistral": {"num_key_value_heads": 8},
    "olmo3": {"sliding_window": 4096},
    "qwen3": {"head_dim": 128},
    "qwen3_5_text": {"num_key_value_heads": 4, "head_dim": 256},
    "seed_oss": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
    },
    "smollm3": {"num_key_value_heads": 4},
}
"""Defaults of transformers' classes, which a config.json may leave out, as Gemma 3's do."""
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def text_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the text model, those of its `text_config` first, with defaults.

    Raises ModelError for a mixture of experts, and for a `model_type` that is no text.
    """
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, Mapping) else dict(config)
    kind = flat.setdefault("model_type", "?")
    if not isinstance(kind, str):
        raise _refusal("model_type", kind)
    flat = {**_DEFAULTS.get(kind, {}), **flat}
    if _experts(flat) or _experts(flat.get("ffn_config")):
        raise ModelError(
            f"{safe_line(kind, 60)} is a mixture of experts: transformers holds the experts of "
            "a layer in one tensor, which bitsandbytes leaves in 16 bits and LoRA does not "
            "adapt, so that most of the model would be neither quantised nor trained",
            hint="choose a dense model",
        )
    if kind in SHARED_MLP:
        flat["intermediate_size"] = flat["shared_intermediate_size"]
    return flat


def is_text_alone(config: Mapping[str, Any]) -> bool:
    """Return True if loading takes the text model alone out of a model for more, as Qwen 3.5's."""
    text, outer = config.get("text_config"), config.get("model_type")
    inner = text.get("model_type") if isinstance(text, Mapping) else None
    if not isinstance(outer, str) or not isinstance(inner, str) or outer == inner:
        return False
    loaded = causal_class(outer)
    return loaded is not None and loaded == causal_class(inner)


def is_nested(config: Mapping[str, Any]) -> bool:
    """Return True for a text model inside one for more than text that the step does not know."""
    inside = isinstance(config.get("text_config"), Mapping) and not is_text_alone(config)
    return inside and config.get("model_type") not in WRAPPER_FAMILIES


def is_tied(config: Mapping[str, Any], flat: Mapping[str, Any]) -> bool:
    """Return whether head and embedding are one matrix.

    Of a model for more than text, the outer configuration decides; left out, they are.
    """
    if config.get("model_type") in WRAPPER_FAMILIES:
        return bool(config.get("tie_word_embeddings", True))
    return bool(flat.get("tie_word_embeddings", flat.get("model_type") in _TIED_BY_DEFAULT))


def attends_everywhere(config: Mapping[str, Any]) -> bool:
    """Return whether every layer has attention, none a state space in its place."""
    kinds = config.get("layer_types")
    return isinstance(kinds, list) and {*kinds} <= {"attention", "full_attention"}


def _experts(config: object) -> bool:
    """Return whether a feed-forward block is several, of which each token uses a few."""
    if not isinstance(config, Mapping):
        return False
    return any(config.get(name) not in (None, 0, 1) for name in _EXPERT_COUNTS)


def has_partial_rotary(config: Mapping[str, Any]) -> bool:
    """Return whether rotary embeddings turn only a part of each head."""
    rope = config.get("rope_parameters")
    source = rope if isinstance(rope, Mapping) else config
    factor = source.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    return isinstance(factor, int | float) and factor < 1


def window_of(config: Mapping[str, Any]) -> int | None:
    """Return the most keys that a query sees in some layer; None without such a limit."""
    if config.get("use_sliding_window") is False or not config.get("sliding_window"):
        return None
    return read_size(config, "sliding_window")


def read_size(
    config: Mapping[str, Any], *names: str, default: int | None = None, most: int = (1 << 31) - 1
) -> int:
    """Return the first of these settings that is there, a whole number from 1 to `most`.

    Raises ModelError for any other value, and where none is there and there is no `default`.
    """
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise _refusal(name, value)
        return value
    if default is None:
        raise ModelError(
            f"the model's config.json has no {names[0]}",
            hint="choose a decoder such as Llama, Mistral, Qwen, Gemma or Phi",
        )
    return default


def _refusal(name: str, value: object) -> ModelError:
    """Return the error of a setting with an impossible value."""
    return ModelError(
        f"the model's config.json has {name}: {safe_line(value, 40)}",
        hint="download the file again, or choose another model",
    )
