"""Sizes of well-known models, so that a plan needs no download.

They come from each model's config.json on the hub. A test compares them with the published
parameter counts.
"""

from __future__ import annotations

import re
from typing import Any

_KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_word_embeddings",
)
_Row = tuple[int, int, int, int, int, int, int, bool]

_SHAPES: dict[str, tuple[str, _Row]] = {
    "meta-llama-3-8b": ("llama", (4096, 32, 32, 8, 128, 14336, 128256, False)),
    "llama-3.1-8b": ("llama", (4096, 32, 32, 8, 128, 14336, 128256, False)),
    "meta-llama-3-70b": ("llama", (8192, 80, 64, 8, 128, 28672, 128256, False)),
    "llama-3.1-70b": ("llama", (8192, 80, 64, 8, 128, 28672, 128256, False)),
    "llama-3.3-70b": ("llama", (8192, 80, 64, 8, 128, 28672, 128256, False)),
    "llama-3.1-405b": ("llama", (16384, 126, 128, 8, 128, 53248, 128256, False)),
    "llama-3.2-1b": ("llama", (2048, 16, 32, 8, 64, 8192, 128256, True)),
    "llama-3.2-3b": ("llama", (3072, 28, 24, 8, 128, 8192, 128256, True)),
    "tinyllama-1.1b": ("llama", (2048, 22, 32, 4, 64, 5632, 32000, False)),
    "tinyllama-1.1b-v1.0": ("llama", (2048, 22, 32, 4, 64, 5632, 32000, False)),
    "smollm-135m": ("llama", (576, 30, 9, 3, 64, 1536, 49152, True)),
    "smollm-360m": ("llama", (960, 32, 15, 5, 64, 2560, 49152, True)),
    "smollm-1.7b": ("llama", (2048, 24, 32, 32, 64, 8192, 49152, True)),
    "smollm2-135m": ("llama", (576, 30, 9, 3, 64, 1536, 49152, True)),
    "smollm2-360m": ("llama", (960, 32, 15, 5, 64, 2560, 49152, True)),
    "smollm2-1.7b": ("llama", (2048, 24, 32, 32, 64, 8192, 49152, True)),
    "smollm3-3b": ("smollm3", (2048, 36, 16, 4, 128, 11008, 128256, True)),
    "mistral-7b-v0.1": ("mistral", (4096, 32, 32, 8, 128, 14336, 32000, False)),
    "mistral-7b-v0.2": ("mistral", (4096, 32, 32, 8, 128, 14336, 32000, False)),
    "mistral-7b-v0.3": ("mistral", (4096, 32, 32, 8, 128, 14336, 32768, False)),
    "qwen2.5-0.5b": ("qwen2", (896, 24, 14, 2, 64, 4864, 151936, True)),
    "qwen2.5-1.5b": ("qwen2", (1536, 28, 12, 2, 128, 8960, 151936, True)),
    "qwen2.5-3b": ("qwen2", (2048, 36, 16, 2, 128, 11008, 151936, True)),
    "qwen2.5-7b": ("qwen2", (3584, 28, 28, 4, 128, 18944, 152064, False)),
    "qwen2.5-14b": ("qwen2", (5120, 48, 40, 8, 128, 13824, 152064, False)),
    "qwen2.5-32b": ("qwen2", (5120, 64, 40, 8, 128, 27648, 152064, False)),
    "qwen2.5-72b": ("qwen2", (8192, 80, 64, 8, 128, 29568, 152064, False)),
    "qwen3-0.6b": ("qwen3", (1024, 28, 16, 8, 128, 3072, 151936, True)),
    "qwen3-1.7b": ("qwen3", (2048, 28, 16, 8, 128, 6144, 151936, True)),
    "qwen3-4b": ("qwen3", (2560, 36, 32, 8, 128, 9728, 151936, True)),
    "qwen3-8b": ("qwen3", (4096, 36, 32, 8, 128, 12288, 151936, False)),
    "qwen3-14b": ("qwen3", (5120, 40, 40, 8, 128, 17408, 151936, False)),
    "qwen3-32b": ("qwen3", (5120, 64, 64, 8, 128, 25600, 151936, False)),
    "qwen3.5-4b": ("qwen3_5_text", (2560, 32, 16, 4, 256, 9216, 248320, True)),
    "qwen3.5-9b": ("qwen3_5_text", (4096, 32, 16, 4, 256, 12288, 248320, False)),
    "granite-3.3-8b": ("granite", (4096, 40, 32, 8, 128, 12800, 49159, True)),
    "granite-4.0-micro": ("granitemoehybrid", (2560, 40, 40, 8, 64, 8192, 100352, True)),
    "olmo-3-7b": ("olmo3", (4096, 32, 32, 32, 128, 11008, 100278, False)),
    "gemma-2-2b": ("gemma2", (2304, 26, 8, 4, 256, 9216, 256000, True)),
    "gemma-2-9b": ("gemma2", (3584, 42, 16, 8, 256, 14336, 256000, True)),
    "gemma-2-27b": ("gemma2", (4608, 46, 32, 16, 128, 36864, 256000, True)),
    "gemma-3-270m": ("gemma3_text", (640, 18, 4, 1, 256, 2048, 262144, True)),
    "gemma-3-1b": ("gemma3_text", (1152, 26, 4, 1, 256, 6912, 262144, True)),
    "phi-3-mini-4k": ("phi3", (3072, 32, 32, 32, 96, 8192, 32064, False)),
    "phi-3-mini-128k": ("phi3", (3072, 32, 32, 32, 96, 8192, 32064, False)),
    "phi-3-medium-4k": ("phi3", (5120, 40, 40, 10, 128, 17920, 32064, False)),
    "phi-3-medium-128k": ("phi3", (5120, 40, 40, 10, 128, 17920, 32064, False)),
    "phi-3.5-mini": ("phi3", (3072, 32, 32, 32, 96, 8192, 32064, False)),
    "phi-4-mini": ("phi3", (3072, 32, 24, 8, 128, 8192, 200064, True)),
    "phi-4": ("phi3", (5120, 40, 40, 10, 128, 17920, 100352, False)),
}
_POSITIONS = {
    "meta-llama-3-": 8_192,
    "llama-3.": 131_072,
    "tinyllama-": 2_048,
    "smollm-": 2_048,
    "smollm2-": 8_192,
    "smollm3-": 65_536,
    "mistral-7b-": 32_768,
    "qwen2.5-0.5b": 32_768,
    "qwen2.5-3b": 32_768,
    "qwen2.5-": 131_072,
    "qwen3-": 40_960,
    "qwen3.5-": 262_144,
    "granite-3.3-": 131_072,
    "granite-4.0-": 131_072,
    "olmo-3-": 65_536,
    "gemma-2-": 8_192,
    "gemma-3-270m": 32_768,
    "gemma-3-1b": 32_768,
    "gemma-3-": 131_072,
    "gemma-4-e": 131_072,
    "gemma-4-": 262_144,
    "ministral-3-": 262_144,
    "phi-3-mini-4k": 4_096,
    "phi-3-medium-4k": 4_096,
    "phi-3": 131_072,
    "phi-4-mini": 131_072,
    "phi-4": 16_384,
}
"""max_position_embeddings by the beginning of a name; the first that matches counts. Where variants
of a model differ, the largest: nothing that a model reads is warned of."""
_VISION_MODELS: dict[str, tuple[str, _Row]] = {
    "gemma-3-4b": ("gemma3", (2560, 34, 8, 4, 256, 10240, 262208, True)),
    "gemma-3-12b": ("gemma3", (3840, 48, 16, 8, 256, 15360, 262208, True)),
    "gemma-3-27b": ("gemma3", (5376, 62, 32, 16, 128, 21504, 262208, True)),
    "gemma-4-e2b": ("gemma4", (1536, 35, 8, 1, 256, 6144, 262144, True)),
    "gemma-4-e4b": ("gemma4", (2560, 42, 8, 2, 256, 10240, 262144, True)),
    "gemma-4-12b": ("gemma4_unified", (3840, 48, 16, 8, 256, 15360, 262144, True)),
    "gemma-4-31b": ("gemma4", (5376, 60, 32, 16, 256, 21504, 262144, True)),
    "ministral-3-3b": ("mistral3", (3072, 26, 32, 8, 128, 9216, 131072, True)),
    "ministral-3-8b": ("mistral3", (4096, 34, 32, 8, 128, 14336, 131072, False)),
    "ministral-3-14b": ("mistral3", (5120, 40, 32, 8, 128, 16384, 131072, False)),
}
"""Models that read images too: a text model inside a larger one."""
_GEMMA_4_LARGE = {
    "attention_k_eq_v": True, "hidden_size_per_layer_input": 0, "sliding_window": 1024,
}  # fmt: skip
_TEXT_OF_MODEL: dict[str, dict[str, Any]] = {
    "gemma-4-e2b": {
        "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
        "num_kv_shared_layers": 20, "sliding_window": 512, "use_double_wide_mlp": True,
    },
    "gemma-4-e4b": {"num_kv_shared_layers": 18, "sliding_window": 512},
    "gemma-4-12b": {**_GEMMA_4_LARGE, "num_global_key_value_heads": 1},
    "gemma-4-31b": {**_GEMMA_4_LARGE, "num_global_key_value_heads": 4},
}  # fmt: skip
"""Settings of one model's text model beside those of its row."""
_TEXT_INSIDE: dict[str, dict[str, Any]] = {
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 1024},
    "gemma4": {"model_type": "gemma4_text"},
    "gemma4_unified": {"model_type": "gemma4_unified_text"},
    "mistral3": {"model_type": "ministral3"},
}
_VISION_TOWERS = {
    "gemma3": {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304},
    "gemma4": {"hidden_size": 768, "num_hidden_layers": 16, "intermediate_size": 3072},
    "gemma4_unified": {"mm_embed_dim": 3840},
    "mistral3": {
        "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096, "patch_size": 14,
    },
}  # fmt: skip
_VISION_OF_MODEL: dict[str, dict[str, Any]] = {
    "gemma-4-31b": {
        "hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "head_dim": 72,
        "num_attention_heads": 16, "num_key_value_heads": 16,
    },
}  # fmt: skip
_WITH_SOUND = frozenset({"gemma-4-e2b", "gemma-4-e4b", "gemma-4-12b"})
_WINDOWS = {
    "mistral-7b-v0.1": 4096,
    "gemma-2-2b": 4096,
    "gemma-2-9b": 4096,
    "gemma-2-27b": 4096,
    "gemma-3-270m": 512,
    "gemma-3-1b": 512,
    "phi-3-mini-4k": 2047,
    "phi-3-medium-4k": 2047,
    "olmo-3-7b": 4096,
}
"""Sliding windows: the most keys that a query sees, in some layers or all."""
_TUNED = re.compile(r"-(instruct|it|pt|chat|base|hf|2507|2512|bf16|coder)(?=-|$)")


def named_config(name: str) -> dict[str, Any] | None:
    """Return the sizes in config.json of a hub id such as `meta-llama/Meta-Llama-3-8B`, or None."""
    last = _TUNED.sub("", name.rsplit("/", 1)[-1].lower())
    key = next((k for k in (last, f"meta-{last}", last.removeprefix("meta-")) if k in _SHAPES), "")
    positions = {"max_position_embeddings": _known_positions(key or last, name)}
    if last in _VISION_MODELS:
        outer, row = _VISION_MODELS[last]
        text = {
            **_config_of(row),
            **positions,
            **_TEXT_INSIDE[outer],
            **_TEXT_OF_MODEL.get(last, {}),
        }
        return {
            "model_type": outer,
            "text_config": text,
            "vision_config": {**_VISION_TOWERS[outer], **_VISION_OF_MODEL.get(last, {})},
            "tie_word_embeddings": text["tie_word_embeddings"],
            **({"audio_config": {}} if last in _WITH_SOUND else {}),
        }
    if not key:
        return None
    kind, row = _SHAPES[key]
    config: dict[str, Any] = {"model_type": kind, **_config_of(row), **positions}
    if key in _WINDOWS:
        config["sliding_window"] = _WINDOWS[key]
    if kind == "granitemoehybrid":  # Granite 4's dense models: attention alone, no experts
        config |= {"num_local_experts": 0, "shared_intermediate_size": config["intermediate_size"]}
        config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    if kind == "gemma2":
        config["attn_logit_softcapping"] = 50.0
    if key == "phi-4-mini":
        config["partial_rotary_factor"] = 0.75
    return config


def _known_positions(key: str, name: str) -> int | None:
    if "-2507" in name:  # Qwen 3's second release
        return 262_144
    return next((most for start, most in _POSITIONS.items() if key.startswith(start)), None)


def _config_of(row: _Row) -> dict[str, Any]:
    return dict(zip(_KEYS, row, strict=True))
