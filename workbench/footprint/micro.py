"""Sizes of a micro-step: the step pads its tokens up to one of few, and captures each size once."""

from __future__ import annotations


def grain(tokens: int) -> int:
    return 64 if tokens <= 2048 else 256 if tokens <= 8192 else 1024


def bucket(tokens: int) -> int:
    """The captured size that `tokens` go into: at most 1/8 more above 512, so few and tight."""
    each = grain(tokens)
    return -(-tokens // each) * each
