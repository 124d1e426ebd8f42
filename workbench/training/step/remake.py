"""Tensors that are made once more in the backward pass instead of being kept.

Norms' outputs and gated activations follow from what is kept anyway by one light kernel each. They
are a third of what a layer keeps; recomputing whole layers for as many bytes takes ten times as
long. Selective recomputation: Korthikanti et al. 2022, arXiv 2205.05198.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Remake:
    """How a tensor follows from tensors that are kept for another reason."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor]
    """Of those: new memory with the same values."""


def remember(out: Tensor, make: Callable[..., Tensor], *kept: Tensor) -> Tensor:
    """`out`, which carries to its reader how it is made again."""
    told: Any = out
    told.remake = Remake(kept=tuple(tensor.detach() for tensor in kept), make=make)
    return out


def remake_of(x: Tensor) -> Remake | None:
    """None where it has to be kept."""
    return getattr(x, "remake", None)
