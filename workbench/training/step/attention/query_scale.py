"""Queries that a model scales by their position, left as they are where each scale is 1.

Ministral 3 multiplies queries by 1 + beta · log(1 + floor(position / n)); n is the length that it
was trained on at first. In rows of up to n tokens all factors are 1. Its own code computes them in
seven launches a layer, and multiplies in one more, which makes another tensor of queries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

NAME = "get_llama_4_attn_scale"
"""The function by which transformers 5.24 computes the factors, in the modules of such models."""


class _Unchanged:
    """A factor of 1: a tensor that is multiplied with it stays the tensor it is."""

    def to(self, *_: Any) -> _Unchanged:
        return self

    def __rmul__(self, other: Tensor) -> Tensor:
        return other


_UNCHANGED = _Unchanged()


@contextmanager
def unscaled_queries(decoder: nn.Module, positions: int) -> Iterator[None]:
    """Leave queries as they are inside the block, if no position up to `positions` is scaled."""
    names = sys.modules[type(decoder).__module__].__dict__
    original = names.get(NAME)
    if original is None:
        yield
        return

    def scale(positions_ids: Tensor, beta: float, max_position_embeddings: int) -> Any:
        if positions > max_position_embeddings:
            return original(positions_ids, beta, max_position_embeddings)
        return _UNCHANGED

    names[NAME] = scale
    try:
        yield
    finally:
        names[NAME] = original
