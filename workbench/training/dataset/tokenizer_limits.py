"""The limits that a tokenizer keeps from its last call or from its file: truncation and padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def without_limits(backend: Tokenizer) -> Tokenizer:
    """Return the same tokenizer, which then neither cuts nor pads."""
    backend.no_truncation()
    backend.no_padding()
    return backend
