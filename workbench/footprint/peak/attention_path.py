"""The attention that the training step uses on a card, found without importing torch.

training/step/attention.py makes the same choice on the card itself; a test holds them together.
Triton needs no check: every CUDA build of PyTorch brings it.
"""

from __future__ import annotations

from importlib.util import find_spec

from workbench.footprint.model.shape import ModelShape
from workbench.machine.cards import Card

WIDEST_HEAD = 256
"""The widest head, in values, that Flash Attention 2 has kernels for."""
SHORT_TOKENS = 1024
"""Tokens of the longest row up to which our own kernel takes the place of Flash Attention 2, being
faster (docs/notes/2026-11-27-step.md, "Attention alone")."""
WIDEST_SHORT_HEAD = 512
"""The widest head, in values, of our own kernel."""
WIDEST_RANK = 256
"""The highest rank of the step's low-rank kernels, whose programs hold parts of A and B in shared
memory. Higher ranks use torch's operations."""


def kernel_for(
    card: Card,
    precision: str,
    shape: ModelShape,
    longest: int,
    *,
    flash_installed: bool | None = None,
) -> tuple[str, str]:
    """Return the kernel (package, torch, triton, efficient, loop or dense) and why it was chosen.

    `longest` is the longest possible row in tokens: a sliding window beyond it changes nothing.
    `flash_installed` replaces the search for the flash-attn package.
    """
    if card.kind != "cuda":
        kind = "dense" if shape.softcap else "loop"
        return kind, "row by row in PyTorch's own attention"
    half = precision in ("bf16", "fp16")
    installed = find_spec("flash_attn") is not None if flash_installed is None else flash_installed
    has = ".".join(map(str, card.capability or (0, 0)))
    capable = (card.capability or (0, 0)) >= (8, 0)
    if half and capable and shape.head_dim <= WIDEST_HEAD:
        if installed:
            return "package", "Flash Attention 2 from the flash-attn package"
        if not shape.softcap:
            return "torch", "Flash Attention 2 as PyTorch bundles it"
        return "triton", "Flash Attention 2 in Triton: it has capped scores"
    banded = shape.window is not None and shape.window < longest
    if half and not shape.softcap and not banded:
        return "efficient", f"PyTorch's memory-efficient kernel: compute capability {has}"
    return "dense", "all pairs of tokens: no other kernel here does what the model asks"
