"""The bytes that scoring takes: a forward pass without gradients, and generation's cache.

Scoring runs PEFT's own modules under autocast (training/scoring/), not the fused step: rows are
padded, and the memory of captured graphs has been released.
"""

from __future__ import annotations

from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.layers import VALUE_BYTES
from workbench.recipe.schema import Recipe

TILE_TOKENS, TILE_WIDTH = 4_096, 32_768
"""Logits that TRL's head holds at once (trl 1.16, kernels/chunked_logprob.py)."""


def evaluation_bytes(
    shape: ModelShape, recipe: Recipe, precision: str, *, rows: int, tokens: int, eager: bool
) -> int:
    """Return the bytes of an evaluation or generation step with `rows` rows of `tokens` tokens.

    `eager` says that attention holds heads × tokens² scores.
    """
    value = VALUE_BYTES[precision]
    tile = min(rows * tokens, TILE_TOKENS) * min(shape.vocab, TILE_WIDTH) * value
    row = _row_bytes(shape, recipe, precision, tokens, eager=eager, padded=rows > 1)
    return rows * row + tile


def _row_bytes(
    shape: ModelShape, recipe: Recipe, precision: str, tokens: int, *, eager: bool, padded: bool
) -> int:
    """Return the bytes of one row: the widest moment of the forward pass, or with the cache."""
    value = VALUE_BYTES[precision]
    # In `up`: the gate's activation, the base's product and its copy, the adapter's, their sum;
    # besides them the residual stream and what was normed.
    wide = value * (5 * shape.ffn + 4 * shape.width)
    # In attention: q, keys and values once for every query head, the output; where rows have
    # different lengths, the mask of token pairs as booleans and once more as numbers to add.
    attends = value * (4 * shape.q_width + 4 * shape.width) + padded * tokens * (1 + value)
    if eager:
        attends += tokens * shape.heads * (8 + value)
    forward = tokens * max(wide, attends)
    if not recipe.evaluate.scorers and recipe.evaluate.task is None:
        return int(forward)
    cached = tokens + recipe.evaluate.max_new_tokens
    cache = cached * shape.layers * 2 * shape.kv_width * value
    return int(cache + forward + shape.vocab * (value + 4))
