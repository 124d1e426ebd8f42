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

from workbench.training.step.kernels.lora_down import NormedInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Remake:
    """A way to make a tensor again from tensors that are kept for another reason."""

    kept: tuple[Tensor, ...]
    """The tensors that it is made from, detached."""
    make: Callable[..., Tensor]
    """Called with `kept`, returns new memory with the same values, bit for bit."""
    normed: Callable[[Tensor], NormedInput] | None = None
    """Called with the second of `kept`, describes the tensor as a norm's output. A kernel that
    takes a NormedInput reads the first of `kept`, and the tensor need not be made at all."""


def attach_remake(
    out: Tensor,
    make: Callable[..., Tensor],
    *kept: Tensor,
    normed: Callable[[Tensor], NormedInput] | None = None,
) -> Tensor:
    """Return `out`, which carries to whatever reads it how it is made again."""
    carrier: Any = out
    carrier.remake = Remake(kept=tuple(part.detach() for part in kept), make=make, normed=normed)
    return out


def find_remake(x: Tensor) -> Remake | None:
    """Return how x is made again, or None where it has to be kept."""
    return getattr(x, "remake", None)
