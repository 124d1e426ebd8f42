"""Measures of well-known models, so that a plan needs no download.

From each model's config.json on the hub; a test holds them to the published parameter counts.
"""

from __future__ import annotations

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
    "llama-3.2-1b": ("llama", (2048, 16, 32, 8, 64, 8192, 128256, True)),
    "llama-3.2-3b": ("llama", (3072, 28, 24, 8, 128, 8192, 128256, True)),
    "tinyllama-1.1b": ("llama", (2048, 22, 32, 4, 64, 5632, 32000, False)),
    "smollm2-135m": ("llama", (576, 30, 9, 3, 64, 1536, 49152, True)),
    "smollm2-360m": ("llama", (960, 32, 15, 5, 64, 2560, 49152, True)),
    "smollm2-1.7b": ("llama", (2048, 24, 32, 32, 64, 8192, 49152, True)),
    "mistral-7b-v0.1": ("mistral", (4096, 32, 32, 8, 128, 14336, 32000, False)),
    "mistral-7b-v0.3": ("mistral", (4096, 32, 32, 8, 128, 14336, 32768, False)),
    "qwen2.5-0.5b": ("qwen2", (896, 24, 14, 2, 64, 4864, 151936, True)),
    "qwen2.5-1.5b": ("qwen2", (1536, 28, 12, 2, 128, 8960, 151936, True)),
    "qwen2.5-3b": ("qwen2", (2048, 36, 16, 2, 128, 11008, 151936, True)),
    "qwen2.5-7b": ("qwen2", (3584, 28, 28, 4, 128, 18944, 152064, False)),
    "qwen2.5-14b": ("qwen2", (5120, 48, 40, 8, 128, 13824, 152064, False)),
    "qwen2.5-32b": ("qwen2", (5120, 64, 40, 8, 128, 27648, 152064, False)),
    "qwen3-0.6b": ("qwen3", (1024, 28, 16, 8, 128, 3072, 151936, True)),
    "qwen3-1.7b": ("qwen3", (2048, 28, 16, 8, 128, 6144, 151936, True)),
    "qwen3-4b": ("qwen3", (2560, 36, 32, 8, 128, 9728, 151936, True)),
    "qwen3-8b": ("qwen3", (4096, 36, 32, 8, 128, 12288, 151936, False)),
    "qwen3-14b": ("qwen3", (5120, 40, 40, 8, 128, 17408, 151936, False)),
    "qwen3-32b": ("qwen3", (5120, 64, 64, 8, 128, 25600, 151936, False)),
    "gemma-2-2b": ("gemma2", (2304, 26, 8, 4, 256, 9216, 256000, True)),
    "gemma-2-9b": ("gemma2", (3584, 42, 16, 8, 256, 14336, 256000, True)),
    "gemma-2-27b": ("gemma2", (4608, 46, 32, 16, 128, 36864, 256000, True)),
    "gemma-3-1b": ("gemma3_text", (1152, 26, 4, 1, 256, 6912, 262144, True)),
    "phi-3-mini-4k": ("phi3", (3072, 32, 32, 32, 96, 8192, 32064, False)),
    "phi-4": ("phi3", (5120, 40, 40, 10, 128, 17920, 100352, False)),
}
_ENDINGS = ("-instruct", "-it", "-pt", "-chat", "-base")


def named_config(name: str) -> dict[str, Any] | None:
    """config.json's measures for a hub id such as `meta-llama/Meta-Llama-3-8B`; None if unknown."""
    last = name.rsplit("/", 1)[-1].lower()
    for ending in _ENDINGS:
        last = last.removesuffix(ending)
    found = (
        _SHAPES.get(last) or _SHAPES.get(f"meta-{last}") or _SHAPES.get(last.removeprefix("meta-"))
    )
    if found is None:
        return None
    kind, row = found
    config: dict[str, Any] = {"model_type": kind, **dict(zip(_KEYS, row, strict=True))}
    if kind == "gemma2":
        config["attn_logit_softcapping"] = 50.0
    return config
