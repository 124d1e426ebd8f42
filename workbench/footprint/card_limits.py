"""The limits of a card: bytes that a plan may take, precision, and quadratic attention."""

from __future__ import annotations

from workbench.errors import WorkbenchError
from workbench.footprint.model.known_models import named_config
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.attention_path import kernel_for
from workbench.footprint.peak.buckets import GIB
from workbench.machine.attention import attention_for, capability_words
from workbench.machine.cards import CAP_SLACK_BYTES, Card

_USUAL_MODEL = "meta-llama/Meta-Llama-3-8B"
"""A model without anything that needs a kernel of its own."""
DRIVER_BYTES = GIB // 2
"""The part of NVML's total that no process gets: 0.47 GiB on an H100 (NVML's total less CUDA's)."""


def limit_bytes(card: Card, free_bytes: int | None = None) -> int:
    """Return the most bytes that a plan on `card` may take.

    `free_bytes` is what the driver reports as free now; None stands for the whole card. Where a
    person has set a cap, the worker keeps `CAP_SLACK_BYTES` of it for what the driver takes
    outside PyTorch's allocator.
    """
    available = card.total_bytes - (DRIVER_BYTES if card.kind == "cuda" else 0)
    if card.cap_bytes is not None and card.kind == "cuda":
        available = min(available, card.cap_bytes - CAP_SLACK_BYTES)
    free = available if free_bytes is None else free_bytes
    return max(0, min(card.usable_bytes, available, free))


def precision_for(card: Card, wanted: str) -> str:
    """Return bf16, fp16 or fp32 for `card`, where `wanted` is one of them or `auto`.

    Raises WorkbenchError where the card lacks the precision that was asked for by name.
    """
    has_bf16 = card.kind == "cpu" or (card.capability is not None and card.capability >= (8, 0))
    if wanted == "auto":
        return "fp32" if card.kind == "cpu" else "bf16" if has_bf16 else "fp16"
    if wanted == "bf16" and not has_bf16:
        raise WorkbenchError(
            f"bf16 needs compute capability 8.0; {card.name} {capability_words(card)}",
            hint="set model.precision: auto, which is fp16 on this card",
        )
    if wanted == "fp16" and card.kind == "cpu":
        raise WorkbenchError(
            f"fp16 training needs a GPU; {card.name} is a CPU card",
            hint="set model.precision: auto, which is fp32 on this card",
        )
    return wanted


def usual_attention(card: Card) -> str:
    """Return in words what attention trials train and score with on the card, and why.

    It is that of a Llama: a model that caps its scores, or has a sliding window, may get another.
    """
    config = named_config(_USUAL_MODEL)
    assert config is not None
    shape = ModelShape.of(config)
    kernel = kernel_for(card, precision_for(card, "auto"), shape, longest=1)[1]
    return f"{kernel}; scores with {attention_for(card, 'auto')[0]}"


def holds_all_scores(shape: ModelShape, card: Card, attention: str) -> bool:
    """Return whether transformers' attention keeps heads × tokens² scores in memory.

    Eager attention does. SDPA does for grouped queries on cards before Ampere, where PyTorch falls
    back to its math path.
    """
    old = card.kind == "cuda" and (card.capability or (0, 0)) < (8, 0)
    return attention == "eager" or (attention == "sdpa" and old and shape.kv_heads != shape.heads)
