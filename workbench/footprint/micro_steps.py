"""Micro-steps: how a batch is cut into them, and the sizes that the step pads their tokens to.

The fused step captures a CUDA graph for each padded size, so that there must be few of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

CHUNK_BYTES = 128 * 2**20
"""The most bytes of logits held at once."""


def bucket_grain(tokens: int) -> int:
    """Return the multiple that a micro-step of `tokens` tokens is padded to."""
    return 64 if tokens <= 2048 else 256 if tokens <= 8192 else 1024


def padded_tokens(tokens: int) -> int:
    """Return the captured size that holds `tokens`; above 512 tokens it is at most 1/8 larger."""
    each = bucket_grain(tokens)
    return -(-tokens // each) * each


def cut_rows(
    lengths: Sequence[int], max_rows: int, max_tokens: int | None, *, padded: bool = False
) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of the rows of each micro-step of a batch.

    Rows stay in their order; a micro-step has at most `max_rows` rows and `max_tokens` tokens
    (None: any number), and a longer row goes alone. With `padded`, each row counts as long as the
    longest of its micro-step.
    """
    most = math.inf if max_tokens is None else max_tokens
    first, count, widest = 0, 0, 0
    for index, length in enumerate(lengths):
        count += length
        if padded:
            widest = max(widest, length)
            count = widest * (index - first + 1)
        if index > first and (count > most or index - first >= max_rows):
            yield first, index
            first, count, widest = index, length, length
    yield first, len(lengths)


def micro_step_tokens(lengths: Sequence[int], tokens_per_micro: int) -> Iterator[int]:
    """Yield the tokens of each micro-step of a batch whose rows have these lengths."""
    for first, end in cut_rows(lengths, len(lengths), tokens_per_micro):
        yield sum(lengths[first:end])


def most_chunk_rows(row_bytes: int) -> int:
    """Return the most positions whose logits, `row_bytes` each, are held at once."""
    most = max(1, CHUNK_BYTES // row_bytes)
    return most // 64 * 64 or most


def chunk_rows(row_bytes: int, rows: int) -> int:
    """Return the positions in one chunk of logits, so that the chunks of `rows` are about equal.

    A short last chunk would read the head's whole weight for little work.
    """
    most = most_chunk_rows(row_bytes)
    equal = math.ceil(rows / max(1, math.ceil(rows / most)))
    return min(most, max(1, math.ceil(equal / 64)) * 64)
