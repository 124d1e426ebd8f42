"""Sizes of a micro-step: the step pads its tokens up to one of few, and captures each size once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CHUNK_BYTES = 128 * 2**20
"""Logits held at once, at most."""


def grain(tokens: int) -> int:
    return 64 if tokens <= 2048 else 256 if tokens <= 8192 else 1024


def bucket(tokens: int) -> int:
    """The captured size that `tokens` go into: at most 1/8 more above 512, so few and tight."""
    each = grain(tokens)
    return -(-tokens // each) * each


def parts(lengths: Iterable[int], most: int) -> Iterator[int]:
    """Tokens of each micro-step: consecutive rows, `most` tokens at most; a longer row alone."""
    held = 0
    for length in lengths:
        if held and held + length > most:
            yield held
            held = 0
        held += length
    if held:
        yield held


def chunk_rows(row_bytes: int) -> int:
    """Positions whose logits are held at once, of so many bytes each."""
    each = max(1, CHUNK_BYTES // row_bytes)
    return each // 64 * 64 or each
