"""The bytes that scoring takes: a forward pass without gradients, and generation's cache.

Models of the fused step are scored by training/decode/: rows without padding, and a lane of a cache
for each row that is being answered. All others run PEFT's own modules under autocast on padded
rows. The memory of captured training graphs has been released in both.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from workbench.footprint.model.shape import ModelShape, ReadingGroup
from workbench.footprint.peak.layers import VALUE_BYTES
from workbench.recipe.schema import Recipe

PACKED_LANES = 128
"""Rows of a step at most that are multiplied with 4-bit weights as they are; beyond, unpacking them
first takes no longer."""
MOST_LANES = 256
"""Rows that are answered at once at most where the recipe leaves the number to the plan. Beyond it
a step's time grows with its rows on the cards that were measured (docs/decode.md)."""
PADDED_ROWS = 16
"""The same for models outside decode/: padding and Python's loop leave more rows little gain."""
PASS_TOKENS = 8_192
"""Tokens of prompts that one pass of decode/ reads at most."""
LOSS_TOKENS = 4_096
"""The same for losses, which are computed beside a trial's optimizer and copies of weights."""
HEAD_ROWS = 128
"""Positions whose logits are held at once, for losses."""
GRAPH_BYTES = 64 << 20
"""Room of captured steps of all sizes, in the pool that they share."""
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
    if shape.delta is not None:
        attends = max(attends, int(shape.delta.scoring_bytes))
    forward = tokens * max(wide, attends)
    if not recipe.evaluate.scorers and recipe.evaluate.task is None:
        return int(forward)
    cached = tokens + recipe.evaluate.max_new_tokens
    cache = cached * 2 * shape.cached_values * value
    return int(cache + forward + shape.vocab * (value + 4))


# -- models that decode/ scores


def rows_asked(recipe: Recipe, *, decodes: bool) -> int:
    """Return how many rows may be scored at once: the recipe's number, or that of `auto`."""
    asked = recipe.evaluate.batch_size
    if asked == "auto":
        return min(MOST_LANES if decodes else PADDED_ROWS, _most_rows(recipe))
    return asked


def _most_rows(recipe: Recipe) -> int:
    """Return how many rows an evaluation may have; MOST_LANES where only the data can tell."""
    data = recipe.data
    tests = data.test_rows or (MOST_LANES if data.test or data.test_split else 0)
    return MOST_LANES if recipe.evaluate.task is not None else max(data.eval_rows, tests)


def smallest_batch(recipe: Recipe) -> int:
    """Return the rows to score at once where no card could be planned for."""
    return rows_asked(recipe, decodes=False)


def generates(recipe: Recipe) -> bool:
    """Return whether the recipe's evaluation generates answers with decode/."""
    return bool(recipe.evaluate.scorers)


def pass_tokens(rows: int, longest: int, most: int = PASS_TOKENS) -> int:
    """Return the tokens of one pass of decode/: so many of the longest rows, within `most`.

    A longer row goes alone.
    """
    return max(longest, min(most, rows * longest))


def pass_bytes(shape: ModelShape, recipe: Recipe, precision: str, *, tokens: int) -> int:
    """Return the bytes of one pass of decode/ over `tokens` tokens.

    The widest layer holds gate and up beside each other with the adapter's columns, their product,
    the residual stream twice and what was normed. When the last one is done, a chunk of logits
    stands beside its output: in 16 bits, in fp32, and in fp32 those of the chunk before.
    """
    value = VALUE_BYTES[precision]
    columns = 2 * recipe.lora.rank
    layers = tokens * value * (_passed_values(shape) + columns)
    head = min(tokens, HEAD_ROWS) * shape.vocab * (value + 8)
    return max(layers, tokens * value * shape.width + head)


def _passed_values(shape: ModelShape) -> int:
    """Return the values of a token that the layers hold and pass on at the widest moment.

    Gemma 4's embeddings of all layers stay beside them; before the first layer there are three.
    """
    tables = shape.all_tables_width
    return tables + max(2 * tables, 3 * shape.widest_ffn + 4 * shape.width)


def lanes_bytes(
    shape: ModelShape, recipe: Recipe, precision: str, *, lanes: int, tokens: int
) -> int:
    """Return the bytes of answering `lanes` rows at once: cache, logits, and captured steps.

    `tokens` is the length of the longest question with its answer's room counted apart.
    """
    value = VALUE_BYTES[precision]
    cache = cache_bytes(shape, recipe, precision, lanes=lanes, tokens=tokens)
    # A captured step holds its lanes' logits in 16 bits and in fp32, and what the layers pass on;
    # one that is not captured takes what the pass over prompts has left.
    step = lanes * (shape.vocab * (value + 4) + value * _passed_values(shape))
    return cache + step + GRAPH_BYTES


def cache_bytes(
    shape: ModelShape, recipe: Recipe, precision: str, *, lanes: int, tokens: int
) -> int:
    """Return the bytes of the keys and values of so many lanes, and of the lane that nobody reads.

    `tokens` is the length of the longest question.
    """
    positions = tokens + recipe.evaluate.max_new_tokens
    return (lanes + 1) * positions * 2 * shape.cached_values * VALUE_BYTES[precision]


def mean_rank(shape: ModelShape, parameters: int) -> float:
    """Return the rank that adapters of so many values have together, were all layers adapted."""
    kinds = shape.kinds or (shape,)
    sides = sum(one.layers * sum(map(sum, one.projections.values())) for one in kinds)
    return parameters / (sides + shape.extra.sides)


def padded_columns(ranks: float) -> int:
    """Return the columns that so many ranks take: a multiple of 8, which tensor cores ask for."""
    return math.ceil(ranks / 8) * 8


def low_rank_bytes(
    shape: ModelShape, precision: str, *, rank: float, adapted: Collection[str] | None = None
) -> int:
    """Return the bytes of the low-rank matrices as decode/ holds them while it answers.

    `rank` is the sum of all adapters' ranks, and `adapted` the projections that have one (None:
    all). Those of projections that read one tensor lie on the diagonal of blocks, with zeros
    between.
    """
    values = 0
    for one in shape.reading_groups:
        members = [name for name in one.names if adapted is None or name in adapted]
        values += one.layers * padded_columns(rank * len(members)) * (one.inputs + one.outputs)
    return values * VALUE_BYTES[precision]


def kept_weights_bytes(shape: ModelShape, recipe: Recipe, precision: str) -> int:
    """Return the bytes of all 4-bit weights of the layers, dequantised, with the adapter's A."""
    a = sum(one.layers * _columns(one, recipe) * one.inputs for one in shape.reading_groups)
    return (shape.linear_params + a) * VALUE_BYTES[precision]


def multiplies_packed(precision: str) -> bool:
    """Return whether a card multiplies 4-bit weights as they are in that precision."""
    return VALUE_BYTES[precision] == 2


def scales_bytes(shape: ModelShape, precision: str) -> int:
    """Return the bytes of all 4-bit weights' scales in fp32, where products with them read them."""
    return shape.linear_params // 64 * 4 if multiplies_packed(precision) else 0


def workspace_bytes(shape: ModelShape, recipe: Recipe, precision: str) -> int:
    """Return the bytes of the largest group's weights, dequantised, with the adapter's A."""
    most = max((one.outputs + _columns(one, recipe)) * one.inputs for one in shape.reading_groups)
    return most * VALUE_BYTES[precision]


def _columns(group: ReadingGroup, recipe: Recipe) -> int:
    """Return the rows that A takes below the weights, where all of them are adapted."""
    return padded_columns(recipe.lora.rank * len(group.names))


def token_cost(
    shape: ModelShape,
    recipe: Recipe,
    precision: str,
    *,
    lanes: int,
    tokens: int,
    kept: bool,
    hbm: bool,
) -> float:
    """Return the time of a generated token, in bytes that the card could move meanwhile.

    Besides keys and values a step reads the weights. On cards with a data centre's memory (`hbm`)
    the bytes of one were measured on an H200, as the time of all products of an 8B
    (docs/notes/2026-11-29-decode-step.md). On others they are computed: a 3090 has a fifth of the
    bandwidth and three fifths of the instructions.
    """
    value = VALUE_BYTES[precision]
    if kept:
        weight = (2.7 if hbm else 2.0) * value / 2
    elif lanes <= PACKED_LANES and multiplies_packed(precision):
        weight = 2.0 + 0.025 * lanes if hbm else 0.4 + 0.03 * lanes
    else:
        weight = (6.0 if hbm else 4.5) * value / 2
    positions = tokens + recipe.evaluate.max_new_tokens // 2
    return shape.linear_params * weight / lanes + positions * 2 * shape.cached_values * value
