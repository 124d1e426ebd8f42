"""Sizes of a micro-step: the step pads its tokens up to one of few, and captures each size once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

CHUNK_BYTES = 128 * 2**20
"""Logits held at once, at most."""


def grain(tokens: int) -> int:
    return 64 if tokens <= 2048 else 256 if tokens <= 8192 else 1024


def bucket(tokens: int) -> int:
    """The captured size that `tokens` go into: at most 1/8 more above 512, so few and tight."""
    each = grain(tokens)
    return -(-tokens // each) * each


def cuts(
    lengths: Sequence[int], max_rows: int, max_tokens: int | None, *, padded: bool = False
) -> Iterator[tuple[int, int]]:
    """(first, end) of the rows of each micro-step: consecutive ones, so many rows and tokens at
    most; a longer row alone. `padded`: each counts as long as the longest of its micro-step.
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


def parts(lengths: Sequence[int], most: int) -> Iterator[int]:
    """Tokens of each micro-step of a batch."""
    for first, end in cuts(lengths, len(lengths), most):
        yield sum(lengths[first:end])


def most_chunk_rows(row_bytes: int) -> int:
    """Positions whose logits, of so many bytes each, are held at once at most."""
    most = max(1, CHUNK_BYTES // row_bytes)
    return most // 64 * 64 or most


def chunk_rows(row_bytes: int, rows: int) -> int:
    """So many in chunks about equal: a short one reads the head's weight as a long one does."""
    most = most_chunk_rows(row_bytes)
    equal = math.ceil(rows / max(1, math.ceil(rows / most)))
    return min(most, max(1, math.ceil(equal / 64)) * 64)
