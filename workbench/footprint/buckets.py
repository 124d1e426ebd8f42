"""Peak bytes of a training step, by what takes them.

Counted for TRL's SFTTrainer with PEFT's LoRA over bitsandbytes' NF4, compute under autocast. Two
peaks measured on an 8B Llama shape anchor it (4 rows of at most 512 tokens, some 920 useful):
5.32 GiB once loaded, 6.7 GiB with recompute, 14.0 GiB without. It means to err upward: on an H100
by 8 to 17 % for 8B shapes (docs/notes/2026-11-23-footprint-peaks.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.footprint.shape import ModelShape
from workbench.recipe.schema import Lora, Recipe

GIB = 1 << 30
NF4_BYTES = {True: 0.5 + 1 / 64 + 4 / (64 * 256), False: 0.5 + 4 / 64}
"""Per parameter, with and without double quantisation: Dettmers et al. 2023, arXiv 2305.14314, §3
(blocks of 64; scales in 8 bits with an fp32 scale per 256 of them, or in 32 bits)."""
VALUE_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
OPTIMIZER_BYTES = {
    "adamw_torch": 8 + 4,  # two fp32 moments, and a temporary of the multi-tensor step
    "adamw_8bit": 2.04,  # two 8-bit moments with an fp32 scale per 256 (arXiv 2110.02861)
    "paged_adamw_8bit": 2.04,
    "paged_adamw_32bit": 8,
    "sgd": 0,
}
CONTEXT_BYTES = {"cuda": 3 * GIB // 4, "cpu": GIB}
"""CUDA context and kernels (docs/notes/2026-11-23-footprint-peaks.md); on a CPU card the process
with its libraries."""
SLACK_BYTES = 3 * GIB // 10
SLACK_SHARE = 0.05
"""Of what comes and goes: the allocator's rounding and fragments."""
HEAD_TOKENS, HEAD_WIDTH = 4_096, 32_768
"""Tile of the fused head and loss (trl 1.16, kernels/chunked_logprob.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One way to run a recipe: what the planner varies."""

    precision: str
    attention: str
    optimizer: str
    rows: int
    """In one micro-step."""
    tokens: int
    """Of the longest row; the others are padded to it."""
    recompute: bool
    card_kind: str = "cuda"
    quadratic: bool = False
    """Attention that holds heads × tokens² scores."""


def predict(shape: ModelShape, recipe: Recipe, run: Run) -> dict[str, int]:
    """Peak bytes by bucket."""
    value = VALUE_BYTES[run.precision]
    adapter = lora_params(shape, recipe.lora)
    tokens = run.rows * run.tokens
    layer = tokens * _token_bytes(shape, recipe.lora, value) + _score_bytes(shape, run, value)
    held = shape.layers * (tokens * shape.width * value if run.recompute else layer)
    moving = {
        "activations": held + tokens * shape.width * (value + 4),
        "transient": (layer if run.recompute else 0)
        + tokens * 2 * (shape.ffn + shape.width) * value
        + _score_bytes(shape, run, value) // 2,
        "logits": _head_bytes(shape, tokens),
        "dequantisation": _workspace(shape, recipe, value),
    }
    still = {
        **resident(shape, recipe, run.precision),
        "adapter": adapter * (4 + (value if value < 4 else 0)),  # fp32 masters, autocast's copies
        "gradients": adapter * 4,
        "optimizer": int(adapter * OPTIMIZER_BYTES[run.optimizer]),
        "context": CONTEXT_BYTES[run.card_kind],
    }
    slack = SLACK_BYTES + int(SLACK_SHARE * sum(moving.values()))
    return {**still, **moving, "slack": slack}


def resident(shape: ModelShape, recipe: Recipe, precision: str) -> dict[str, int]:
    """The loaded base."""
    value = VALUE_BYTES[precision]
    per_param = NF4_BYTES[recipe.model.double_quantization]
    if recipe.model.quantization == "none":
        per_param = float(value)
    return {
        "base": int(shape.linear_params * per_param),
        "embeddings": (shape.other_params + shape.width) * value,
    }


def lora_params(shape: ModelShape, lora: Lora) -> int:
    return shape.layers * lora.rank * sum(i + o for i, o in targeted(shape, lora).values())


def targeted(shape: ModelShape, lora: Lora) -> dict[str, tuple[int, int]]:
    """The projections that get an adapter; all of them where none of the names is known."""
    every = shape.projections
    if lora.targets == "all-linear":
        return every
    ends = {name.rsplit(".", 1)[-1] for name in lora.targets}
    return {name: size for name, size in every.items() if name in ends} or every


def eval_row_bytes(shape: ModelShape, recipe: Recipe, precision: str, tokens: int) -> int:
    """One row of evaluation: a forward without gradients, its logits, and a cache to generate."""
    value = VALUE_BYTES[precision]
    forward = tokens * (4 * shape.width + 3 * shape.ffn) * value
    logits = tokens * shape.vocab * (value + 4)
    if recipe.evaluate.answer_pattern is None:
        return forward + logits
    cached = tokens + recipe.evaluate.max_new_tokens
    return max(forward + logits, cached * shape.layers * 2 * shape.kv_width * value + forward)


def _token_bytes(shape: ModelShape, lora: Lora, value: int) -> int:
    """What one layer saves of one token for the backward pass."""
    norms = shape.norms * 4 * shape.width  # their fp32 inputs
    head_norms = 4 * (shape.q_width + shape.kv_width) if shape.head_norms else 0
    attention = 4 * shape.q_width * value + 4 * shape.heads  # q, k, v (repeated), out; log-sums
    feed_forward = 3 * shape.ffn * value  # gate, its activation, up
    return norms + head_norms + attention + feed_forward + _lora_bytes(shape, lora, value)


def _lora_bytes(shape: ModelShape, lora: Lora, value: int) -> int:
    sizes = targeted(shape, lora)
    ranks = len(sizes) * lora.rank * value
    if lora.dropout > 0:  # each projection keeps its own mask and its own dropped input
        return ranks + sum(i for i, _ in sizes.values()) * (value + 1)
    shared = {  # q, k, v share an input, and so do gate and up
        "in": shape.width,
        "o": shape.q_width,
        "mid": shape.width,
        "down": shape.ffn,
    }
    return ranks + sum(shared.values()) * value


def _score_bytes(shape: ModelShape, run: Run, value: int) -> int:
    """Attention scores of one layer: fp32 softmax, its cast, and what masks them."""
    if not run.quadratic:
        return 0
    return run.rows * shape.heads * run.tokens**2 * (4 + value + 2)


def _head_bytes(shape: ModelShape, tokens: int) -> int:
    """A tile of fp32 logits and its gradient, and the hidden states' gradient in fp32."""
    tile = min(tokens, HEAD_TOKENS) * min(shape.vocab, HEAD_WIDTH) * 4
    return 2 * tile + 8 * tokens * shape.width


def _workspace(shape: ModelShape, recipe: Recipe, value: int) -> int:
    if recipe.model.quantization == "none":
        return 0
    return max(i * o for i, o in shape.projections.values()) * value
