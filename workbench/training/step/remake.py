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

from workbench.training.step.triton_ops import Normed


@dataclass(frozen=True, slots=True, kw_only=True)
class Remake:
    """How a tensor follows from tensors that are kept for another reason."""

    kept: tuple[Tensor, ...]
    make: Callable[..., Tensor]
    """Of those: new memory with the same values."""
    normed: Callable[[Tensor], Normed] | None = None
    """Of the second: it need not be made where a kernel can read the first as Normed."""


def remember(
    out: Tensor,
    make: Callable[..., Tensor],
    *kept: Tensor,
    normed: Callable[[Tensor], Normed] | None = None,
) -> Tensor:
    """`out`, which carries to its reader how it is made again."""
    told: Any = out
    told.remake = Remake(kept=tuple(part.detach() for part in kept), make=make, normed=normed)
    return out


def remake_of(x: Tensor) -> Remake | None:
    """None where it has to be kept."""
    return getattr(x, "remake", None)
