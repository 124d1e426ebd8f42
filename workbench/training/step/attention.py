"""Attention over a concatenated row, through transformers' AttentionInterface.

Saves all attention between padding, and the mask. Kernels: flash-attn's varlen form (Dao 2023,
arXiv 2307.08691) where that package is installed, PyTorch's bundled one
(torch.nn.attention.varlen) from compute capability 8.0, both with our own for short rows, which
has capped scores as well (short_rows.py); the memory-efficient kernel (Rabe and Staats 2021, arXiv
2112.05682; xformers) below, and plain SDPA row by row on a CPU. The registered names contain no
"flash": transformers would look for a hub kernel of that name.
"""

# T tokens, H query heads, G key/value heads, D head width, Q queries, K keys

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from workbench.training.step import triton_ops
from workbench.training.step.short_rows import ShortRows

Kernel = Callable[..., Tensor]
PREFIX = "workbench_varlen_"
SHORT = 1024
"""Tokens of the longest row up to which our own kernel is faster than the libraries'."""
IGNORED = frozenset({"position_ids", "seq_idx", "use_cache", "cache_position", "output_attentions"})
"""What models pass along that changes nothing here."""


class Unsupported(ValueError):
    """A model asks attention for something this path does not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    kind: str
    """package, torch, triton, efficient, loop or dense."""
    why: str

    @property
    def name(self) -> str:
        return PREFIX + self.kind


def choose(
    device: torch.device,
    dtype: torch.dtype,
    *,
    capability: tuple[int, int] | None = None,
    softcap: bool = False,
    head_width: int = 128,
    triton: bool = True,
) -> Choice:
    """The kernel for a card. `capability` pretends another card (for tests of the T4 path);
    `triton` runs there.
    """
    if device.type != "cuda":
        kind = "dense" if softcap else "loop"
        return Choice(kind=kind, why="SDPA row by row: no CUDA card")
    has = capability or torch.cuda.get_device_capability(device)
    half = dtype in (torch.float16, torch.bfloat16)
    if has >= (8, 0) and half and head_width <= 256:
        if find_spec("flash_attn") is not None:
            return Choice(kind="package", why="Flash Attention 2 from the flash-attn package")
        if softcap and triton:
            return Choice(kind="triton", why="Flash Attention 2 in Triton: it has capped scores")
        if softcap:
            why = "soft-capped scores: the flash-attn package has them, or Triton; both are missing"
            return Choice(kind="dense", why=why)
        return Choice(kind="torch", why="Flash Attention 2 as PyTorch bundles it")
    if softcap:
        return Choice(kind="dense", why="soft-capped scores need the dense path here")
    if half:
        return Choice(kind="efficient", why=f"memory-efficient kernel: capability {has} below 8.0")
    return Choice(kind="dense", why="fp32 on a card: no varlen kernel takes it")


@contextmanager
def using(config: Any, choice: Choice) -> Iterator[None]:
    """The model attends by `choice` inside; evaluation and generation keep their own."""
    was = config._attn_implementation_internal
    config._attn_implementation_internal = choice.name
    try:
        yield
    finally:
        config._attn_implementation_internal = was


def interface(kernel: Kernel) -> Callable[..., tuple[Tensor, None]]:
    """As transformers calls it."""

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        cu_seq_lens_q: Tensor,
        max_length_q: int,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_k: int | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """query_1HTD, key_1GTD, value_1GTD -> out_1THD. Raises Unsupported, never approximates."""
        unknown = {name for name in more if more[name] is not None} - IGNORED
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        if unknown or attention_mask is not None or dropout > 0.0 or not causal:
            asked = ", ".join(sorted(unknown)) or "a mask, dropout or no causality"
            raise Unsupported(f"varlen attention does not know {asked}")
        window = sliding_window if sliding_window and sliding_window < max_length_q else None
        short = max_length_q <= SHORT and triton_ops.usable(query.device)
        attend_by = _triton if short and kernel in (_package, _torch_varlen) else kernel
        out_THD = attend_by(
            query.squeeze(0).transpose(0, 1),  # not [0]: its gradient would be a copy
            key.squeeze(0).transpose(0, 1),
            value.squeeze(0).transpose(0, 1),
            cu=cu_seq_lens_q,
            max_length=max_length_q,
            scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
            window=window,
            softcap=softcap,
        )
        return out_THD[None], None

    return attend


def _package(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    cu = cu.int()
    out: Tensor = flash_attn_varlen_func(
        q_THD, k_TGD, v_TGD, cu, cu, max_length, max_length,
        softmax_scale=scale, causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
        softcap=softcap or 0.0,
    )  # fmt: skip
    return out


def _torch_varlen(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    if softcap is not None:
        raise Unsupported("PyTorch's varlen attention has no soft cap")
    cu = cu.int()
    more: dict[str, Any] = {}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.12 and newer ask for it
        more["enable_gqa"] = q_THD.shape[1] != k_TGD.shape[1]
    out = varlen_attn(
        q_THD, k_TGD, v_TGD, cu, cu, max_length, max_length,
        scale=scale, window_size=(window - 1, 0) if window else (-1, 0), **more,
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out


def _triton(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    out: Tensor = ShortRows.apply(  # type: ignore[no-untyped-call]
        q_THD, k_TGD, v_TGD, cu.int(), max_length, scale, window, softcap
    )
    return out


def _efficient(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    if softcap is not None or window is not None:
        return _dense(
            q_THD, k_TGD, v_TGD, cu=cu, max_length=max_length, scale=scale, window=window,
            softcap=softcap,
        )  # fmt: skip
    cu = cu.int()
    causal_from_top_left = 1  # sdp::CustomMaskType
    out_1THD: Tensor = torch.ops.aten._efficient_attention_forward(
        q_THD[None], _grown(k_TGD, q_THD)[None], _grown(v_TGD, q_THD)[None],
        None, cu, cu, max_length, max_length, 0.0, causal_from_top_left, True, scale=scale,
    )[0]  # fmt: skip
    return out_1THD.squeeze(0)


def _loop(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    if softcap is not None:
        raise Unsupported("SDPA has no soft cap")
    ends = cu.tolist()  # on a CPU this waits for nothing
    k_THD, v_THD = _grown(k_TGD, q_THD), _grown(v_TGD, q_THD)
    outs = []
    for start, end in pairwise(ends):
        if end == start:
            continue
        q_1HQD, k_1HKD, v_1HKD = (
            tensor[start:end].transpose(0, 1)[None] for tensor in (q_THD, k_THD, v_THD)
        )
        banded = window is not None and window < end - start
        mask = _band(end - start, window, q_THD.device) if banded else None
        out_1HQD = nn.functional.scaled_dot_product_attention(
            q_1HQD, k_1HKD, v_1HKD, attn_mask=mask, is_causal=mask is None, scale=scale
        )
        outs.append(out_1HQD[0].transpose(0, 1))
    return torch.cat(outs)


def _dense(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """All pairs with a block mask, no host sync; T² scores a head: for short rows only."""
    tokens = q_THD.shape[0]
    row_T = torch.bucketize(torch.arange(tokens, device=cu.device), cu[1:], right=True)
    mask_QK = _band(tokens, window, cu.device) & (row_T[:, None] == row_T[None, :])
    scores_HQK = torch.einsum("qhd,khd->hqk", q_THD, _grown(k_TGD, q_THD)).float() * scale
    if softcap is not None:
        scores_HQK = torch.tanh(scores_HQK / softcap) * softcap
    scores_HQK = scores_HQK.masked_fill(~mask_QK, float("-inf"))
    weights_HQK = scores_HQK.softmax(-1).to(q_THD.dtype)
    return torch.einsum("hqk,khd->qhd", weights_HQK, _grown(v_TGD, q_THD))


def _grown(x_TGD: Tensor, q_THD: Tensor) -> Tensor:
    """Each key/value head once for every query head that shares it."""
    times = q_THD.shape[1] // x_TGD.shape[1]
    return x_TGD if times == 1 else x_TGD.repeat_interleave(times, dim=1)


def _band(length: int, window: int | None, device: torch.device) -> Tensor:
    """mask_QK of causal attention; with `window`, to the last so many keys, its own included."""
    at = torch.arange(length, device=device)
    back_QK = at[:, None] - at[None, :]
    seen = back_QK >= 0
    return seen if window is None else seen & (back_QK < window)


KERNELS: dict[str, Kernel] = {
    "package": _package,
    "torch": _torch_varlen,
    "triton": _triton,
    "efficient": _efficient,
    "loop": _loop,
    "dense": _dense,
}
for _kind, _kernel in KERNELS.items():
    AttentionInterface.register(PREFIX + _kind, interface(_kernel))
