"""Attention of one new token a lane over the keys and values that a cache holds.

Flash decoding without a split over keys (Dao et al. 2023, "Flash-Decoding"): one program reads the
keys and values of one lane's group once, for all query heads that share them. Nothing is read on
the host, so that the launch can be captured and lengths may grow between replays.
"""

# B lanes of a step, T tokens, S slots, C positions of a slot, H query heads, G key/value heads,
# D head width

import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.triton_math import stable_tanh
from workbench.training.step.kernels.triton_support import (
    jit,
    next_power_of_two,
    pipeline_stages,
    tl,
)


@jit
def _store_kernel(
    k, v, keys, values, slots_T, positions_T, k_stride_t, k_stride_g, v_stride_t, v_stride_g,
    slot_stride, group_stride, G, D, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Copy the key and value of one token to its slot and position."""
    t = tl.program_id(0).to(tl.int64)
    g, d = tl.arange(0, BLOCK_G)[:, None], tl.arange(0, BLOCK_D)[None, :]
    inside = (g < G) & (d < D)
    to = tl.load(slots_T + t) * slot_stride + tl.load(positions_T + t) * D + g * group_stride + d
    tl.store(keys + to, tl.load(k + t * k_stride_t + g * k_stride_g + d, mask=inside), mask=inside)
    read = tl.load(v + t * v_stride_t + g * v_stride_g + d, mask=inside)
    tl.store(values + to, read, mask=inside)


def store_keys_values(
    k_TGD: Tensor,
    v_TGD: Tensor,
    keys_SGCD: Tensor,
    values_SGCD: Tensor,
    slots_T: Tensor,
    positions_T: Tensor,
) -> None:
    """Write the key and value of each token to its slot (int64) and position (int64)."""
    if not triton_support.is_usable(k_TGD.device):
        keys_SGCD[slots_T, :, positions_T] = k_TGD
        values_SGCD[slots_T, :, positions_T] = v_TGD
        return
    tokens, groups, width = k_TGD.shape
    _store_kernel[(tokens,)](
        k_TGD, v_TGD, keys_SGCD, values_SGCD, slots_T, positions_T,
        k_TGD.stride(0), k_TGD.stride(1), v_TGD.stride(0), v_TGD.stride(1),
        keys_SGCD.stride(0), keys_SGCD.stride(1), groups, width,
        next_power_of_two(groups), next_power_of_two(width),
    )  # fmt: skip


def cached_attention_reference(
    q_BHD: Tensor,
    keys_SGCD: Tensor,
    values_SGCD: Tensor,
    slots_B: Tensor,
    positions_B: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Return out_BHD by torch's operations; reads the largest position on the host."""
    longest = int(positions_B.max()) + 1
    # One gather for all lanes: slots are few and rows short wherever this path runs.
    k_BGCD, v_BGCD = (cache[slots_B, :, :longest] for cache in (keys_SGCD, values_SGCD))
    lanes, groups = k_BGCD.shape[:2]
    q_BGJD = q_BHD.reshape(lanes, groups, -1, q_BHD.shape[-1])
    scores = torch.einsum("bgjd,bgcd->bgjc", q_BGJD, k_BGCD).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    back_BC = positions_B[:, None] - torch.arange(longest, device=q_BHD.device)
    seen_BC = (back_BC >= 0) if window is None else (back_BC >= 0) & (back_BC < window)
    scores = scores.masked_fill(~seen_BC[:, None, None], float("-inf"))
    # What an earlier prompt left there may be infinite or NaN, and times a weight of 0 still NaN.
    v_BGCD.masked_fill_(~seen_BC[:, None, :, None], 0.0)  # of a copy: indexing made one
    out = torch.einsum("bgjc,bgcd->bgjd", scores.softmax(-1).to(q_BHD.dtype), v_BGCD)
    return out.reshape(q_BHD.shape)


@jit
def _cached_attention_kernel(
    q, keys, values, out, slots_B, positions_B, scale, softcap, window,
    q_stride_b, q_stride_h, out_stride_b, slot_stride, group_stride, heads_each, D,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the outputs of the query heads of one lane that share one key/value head."""
    b, g = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    h, d = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    in_h, in_d = h < heads_each, d < D
    inside = in_h[:, None] & in_d[None, :]
    head = g * heads_each + h
    q_HD = tl.load(
        q + b * q_stride_b + head[:, None] * q_stride_h + d[None, :], mask=inside, other=0.0
    )
    last = tl.load(positions_B + b)
    first = last * 0
    if WINDOWED:
        first = tl.maximum(last - window + 1, 0)
    at = tl.load(slots_B + b) * slot_stride + g * group_stride
    top = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    sums = tl.zeros((BLOCK_H, BLOCK_D), tl.float32)
    # The first block holds `first`, so that `top` is finite from then on.
    for start in range(first // BLOCK_C * BLOCK_C, last + 1, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        seen = (c >= first) & (c <= last)
        from_C = at + c[:, None] * D + d[None, :]
        loaded = seen[:, None] & in_d[None, :]
        k_CD = tl.load(keys + from_C, mask=loaded, other=0.0)
        scores = tl.dot(q_HD, tl.trans(k_CD), input_precision="ieee") * scale
        if CAPPED:
            scores = stable_tanh(scores / softcap) * softcap
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp(top - higher)
        weights = tl.exp(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        v_CD = tl.load(values + from_C, mask=loaded, other=0.0)
        sums = sums * shrink[:, None]
        sums += tl.dot(weights.to(v_CD.dtype), v_CD, input_precision="ieee")
        top = higher
    sums = sums / total[:, None]
    to = out + b * out_stride_b + head[:, None] * D + d[None, :]
    tl.store(to, sums.to(out.dtype.element_ty), mask=inside)


def cached_attention(
    q_BHD: Tensor,
    keys_SGCD: Tensor,
    values_SGCD: Tensor,
    slots_B: Tensor,
    positions_B: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Return out_BHD: each lane's queries attend to positions 0 to its own in its slot.

    `window` counts the keys that a query sees, its own included (None: all). `softcap`: scores
    become softcap · tanh(scores / softcap), as in Gemma 2.
    """
    if not triton_support.is_usable(q_BHD.device):
        return cached_attention_reference(
            q_BHD, keys_SGCD, values_SGCD, slots_B, positions_B,
            scale=scale, window=window, softcap=softcap,
        )  # fmt: skip
    lanes, heads, width = q_BHD.shape
    groups = keys_SGCD.shape[1]
    q_BHD = q_BHD if q_BHD.stride(2) == 1 else q_BHD.contiguous()
    out = q_BHD.new_empty(lanes, heads, width)
    narrow = width <= 128 and q_BHD.dtype.itemsize < 4
    keys_each = 64 if narrow else 32 if width <= 256 else 16  # a block lies in shared memory
    _cached_attention_kernel[(lanes, groups)](
        q_BHD, keys_SGCD, values_SGCD, out, slots_B, positions_B, scale, softcap or 1.0,
        window or 0, q_BHD.stride(0), q_BHD.stride(1), out.stride(0),
        keys_SGCD.stride(0), keys_SGCD.stride(1), heads // groups, width,
        window is not None, softcap is not None,
        # A product of matrices takes 16 rows at least.
        max(16, next_power_of_two(heads // groups)), next_power_of_two(width),
        keys_each, num_warps=4, num_stages=pipeline_stages(q_BHD, 2),
    )  # fmt: skip
    return out
