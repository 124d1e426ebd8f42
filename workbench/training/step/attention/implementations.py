"""Six ways to compute causal attention over concatenated rows, with one signature.

Each takes q_THD, k_TGD and v_TGD, `cu` (R + 1 cumulative lengths; unused ones repeat the end),
`max_length` (no row is longer), `scale` (of the scores), `window` (keys that a query sees, its own
included; None: all) and `softcap` (scores become softcap · tanh(scores / softcap); None: as they
are), and returns out_THD.
"""

# T tokens, H query heads, G key/value heads, D head width, Q queries, K keys, R rows

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.kernels.attention import ShortRowAttention
from workbench.training.step.rows import row_of_tokens

Implementation = Callable[..., Tensor]


class UnsupportedAttention(ValueError):
    """A model asks attention for something that this path does not do."""


def attend_by_package(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD by flash-attn's varlen kernel (Dao 2023, arXiv 2307.08691)."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    cu = cu.int()
    out: Tensor = flash_attn_varlen_func(
        q_THD, k_TGD, v_TGD, cu, cu, max_length, max_length,
        softmax_scale=scale, causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
        softcap=softcap or 0.0,
    )  # fmt: skip
    return out


def attend_by_torch(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD by the Flash Attention 2 that PyTorch bundles. It has no soft cap."""
    from torch.nn.attention.varlen import varlen_attn

    if softcap is not None:
        raise UnsupportedAttention("PyTorch's varlen attention has no soft cap")
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


def attend_by_triton(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD by our own kernel, which is for short rows and capped scores."""
    out: Tensor = ShortRowAttention.apply(  # type: ignore[no-untyped-call]
        q_THD, k_TGD, v_TGD, cu.int(), max_length, scale, window, softcap
    )
    return out


def attend_by_memory_efficient(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD by the memory-efficient kernel, for cards below compute capability 8.0.

    Rabe and Staats 2021, arXiv 2112.05682, as xformers gave it to PyTorch. It knows neither windows
    nor soft caps; dense attention takes its place there.
    """
    if softcap is not None or window is not None:
        return attend_densely(
            q_THD, k_TGD, v_TGD, cu=cu, max_length=max_length, scale=scale, window=window,
            softcap=softcap,
        )  # fmt: skip
    cu = cu.int()
    causal_from_top_left = 1  # sdp::CustomMaskType in ATen
    out_1THD: Tensor = torch.ops.aten._efficient_attention_forward(
        q_THD[None], _repeat_heads(k_TGD, q_THD)[None], _repeat_heads(v_TGD, q_THD)[None],
        None, cu, cu, max_length, max_length, 0.0, causal_from_top_left, True, scale=scale,
    )[0]  # fmt: skip
    return out_1THD.squeeze(0)


def attend_row_by_row(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD by PyTorch's SDPA, one row after another; densely where scores are capped.

    It reads lengths on the host.
    """
    ends = cu.tolist()  # on a CPU this waits for nothing
    k_THD, v_THD = _repeat_heads(k_TGD, q_THD), _repeat_heads(v_TGD, q_THD)
    outs = []
    for start, end in pairwise(ends):
        if end == start:
            continue
        q, k, v = (tensor[start:end] for tensor in (q_THD, k_THD, v_THD))
        length = end - start
        if softcap is not None:
            more: dict[str, Any] = {"cu": cu.new_tensor([0, length]), "max_length": length}
            out = attend_densely(q, k, v, **more, scale=scale, window=window, softcap=softcap)
            outs.append(out)
            continue
        banded = window is not None and window < length
        mask = _causal_band(length, window, q_THD.device) if banded else None
        q_1HQD, k_1HKD, v_1HKD = (tensor.transpose(0, 1)[None] for tensor in (q, k, v))
        out_1HQD = nn.functional.scaled_dot_product_attention(
            q_1HQD, k_1HKD, v_1HKD, attn_mask=mask, is_causal=mask is None, scale=scale
        )
        outs.append(out_1HQD[0].transpose(0, 1))
    return torch.cat(outs)


def attend_densely(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, *, cu: Tensor, max_length: int, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """Return out_THD from the scores of all pairs of tokens under a block mask.

    Nothing is read on the host, so it can be captured. It makes T² scores for each head: for short
    rows only.
    It is the reference of the other implementations' tests.
    """
    tokens = q_THD.shape[0]
    row_T = row_of_tokens(cu, tokens)
    mask_QK = _causal_band(tokens, window, cu.device) & (row_T[:, None] == row_T[None, :])
    scores_HQK = torch.einsum("qhd,khd->hqk", q_THD, _repeat_heads(k_TGD, q_THD)).float() * scale
    if softcap is not None:
        scores_HQK = torch.tanh(scores_HQK / softcap) * softcap
    scores_HQK = scores_HQK.masked_fill(~mask_QK, float("-inf"))
    weights_HQK = scores_HQK.softmax(-1).to(q_THD.dtype)
    return torch.einsum("hqk,khd->qhd", weights_HQK, _repeat_heads(v_TGD, q_THD))


def _repeat_heads(x_TGD: Tensor, q_THD: Tensor) -> Tensor:
    """Return each key/value head once for every query head that shares it."""
    # Kernels without grouped heads read keys and values of every query head.
    times = q_THD.shape[1] // x_TGD.shape[1]
    return x_TGD if times == 1 else x_TGD.repeat_interleave(times, dim=1)


def _causal_band(length: int, window: int | None, device: torch.device) -> Tensor:
    """Return mask_QK of causal attention; with `window`, of the last so many keys, with its own."""
    at = torch.arange(length, device=device)
    back_QK = at[:, None] - at[None, :]
    seen = back_QK >= 0
    return seen if window is None else seen & (back_QK < window)


IMPLEMENTATIONS: dict[str, Implementation] = {
    "package": attend_by_package,
    "torch": attend_by_torch,
    "triton": attend_by_triton,
    "efficient": attend_by_memory_efficient,
    "loop": attend_row_by_row,
    "dense": attend_densely,
}
"""By the kind that AttentionChoice names."""
