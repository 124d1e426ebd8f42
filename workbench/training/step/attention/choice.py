"""The choice of an implementation of attention for a card, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch

PREFIX = "workbench_varlen_"
"""Begins the names under which implementations are registered with transformers. They contain no
"flash": transformers would look for a kernel of that name on the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    """An implementation of attention and the reason for it."""

    kind: str
    """package, torch, triton, efficient, loop or dense (implementations.py)."""
    why: str

    @property
    def name(self) -> str:
        """The name under which transformers knows the implementation."""
        return PREFIX + self.kind

    @property
    def keeps_inputs(self) -> bool:
        """True where attention keeps queries and keys as they come.

        Turning them in place (rotary embeddings) then saves a copy; the others make one anyway.
        """
        return self.kind in ("package", "torch", "triton")


def choose_attention(
    device: torch.device,
    dtype: torch.dtype,
    *,
    capability: tuple[int, int] | None = None,
    softcap: bool = False,
    head_width: int = 128,
    triton: bool = True,
) -> AttentionChoice:
    """Return the implementation for a device, a compute dtype and a model's attention.

    `capability` pretends another card (for tests of the T4 path); `softcap` says that scores are
    soft-capped, as in Gemma 2; `triton` that Triton runs on the device.
    """
    if device.type != "cuda":
        kind = "dense" if softcap else "loop"
        return AttentionChoice(kind=kind, why="SDPA row by row: no CUDA card")
    has = capability or torch.cuda.get_device_capability(device)
    half = dtype in (torch.float16, torch.bfloat16)
    # Flash Attention 2 needs compute capability 8.0, 16 bits, and heads of at most 256.
    if has >= (8, 0) and half and head_width <= 256:
        if find_spec("flash_attn") is not None:
            why = "Flash Attention 2 from the flash-attn package"
            return AttentionChoice(kind="package", why=why)
        if softcap and triton:
            why = "Flash Attention 2 in Triton: it has capped scores"
            return AttentionChoice(kind="triton", why=why)
        if softcap:
            why = "soft-capped scores: the flash-attn package has them, or Triton; both are missing"
            return AttentionChoice(kind="dense", why=why)
        return AttentionChoice(kind="torch", why="Flash Attention 2 as PyTorch bundles it")
    if softcap:
        return AttentionChoice(kind="dense", why="soft-capped scores need the dense path here")
    if half:
        why = f"memory-efficient kernel: capability {has} below 8.0"
        return AttentionChoice(kind="efficient", why=why)
    return AttentionChoice(kind="dense", why="fp32 on a card: no varlen kernel takes it")
