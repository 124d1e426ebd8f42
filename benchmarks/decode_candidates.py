"""Candidates for a faster decode step: products of few rows, each ended by one kernel.

Not part of the product. A layer's four products are split over their inputs and leave their parts
in fp32; the kernel that sums a product's parts also adds the adapter's B and does what follows:
the residual sum and the next norm, rotary embeddings and the writing of keys and values, or the
gated activation. `decode_parts.py` compares them with what the decode path launches today.
"""

# B lanes, K inputs, M rows of weights with A below them, S parts of a sum, C columns of A,
# N outputs, H query heads, G key/value heads, D head width

from __future__ import annotations

import torch
from torch import Tensor

from workbench.training.step.kernels.norm import normalized_row
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    tl,
)


@jit
def _product_kernel(
    x_BK, w_MK, parts_SBM, B, M, K, k_each, x_stride,
    BLOCK_B: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write one part of x @ w.T for a block of w's rows; w's rows are the rows of the tile."""
    block, split = tl.program_id(0), tl.program_id(1)
    m = block * BLOCK_M + tl.arange(0, BLOCK_M)
    b = tl.arange(0, BLOCK_B)
    k = split * k_each + tl.arange(0, BLOCK_K)
    from_w = w_MK + m[:, None].to(tl.int64) * K + k[None, :]
    from_x = x_BK + b[None, :] * x_stride + k[:, None]
    in_m, in_b = m[:, None] < M, b[None, :] < B
    sums_MB = tl.zeros((BLOCK_M, BLOCK_B), tl.float32)
    for _ in range(0, k_each, BLOCK_K):
        w = tl.load(from_w, mask=in_m, other=0.0, eviction_policy="evict_first")
        x = tl.load(from_x, mask=in_b, other=0.0)
        sums_MB += tl.dot(w, x, input_precision="ieee")
        from_w += BLOCK_K
        from_x += BLOCK_K
    to = parts_SBM + (split.to(tl.int64) * B + b[:, None]) * M + m[None, :]
    inside = (b[:, None] < B) & (m[None, :] < M)
    tl.store(to, tl.trans(sums_MB), mask=inside)


def split_product(
    x_BK: Tensor, w_MK: Tensor, *, splits: int, block_m: int, block_k: int, stages: int, warps: int
) -> Tensor:
    """Return parts_SBM in fp32, whose sum over S is x @ w.T.

    `splits` times `block_k` must divide K. Up to 128 lanes: one tile holds them all.
    """
    (lanes, width), rows = x_BK.shape, w_MK.shape[0]
    k_each = width // splits
    if width % splits or k_each % block_k:
        raise ValueError(f"{width} inputs do not lie in {splits} parts of {block_k}")
    parts = torch.empty(splits, lanes, rows, dtype=torch.float32, device=x_BK.device)
    _product_kernel[(ceil_div(rows, block_m), splits)](
        x_BK, w_MK, parts, lanes, rows, width, k_each, x_BK.stride(0),
        max(16, next_power_of_two(lanes)), block_m, block_k, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return parts


@jit
def _summed(from_part, inside, part_stride, S: tl.constexpr):
    """Return the sum of a product's parts where `from_part` points into the first."""
    total = tl.load(from_part, mask=inside, other=0.0)
    for s in tl.static_range(1, S):
        total += tl.load(from_part + s * part_stride, mask=inside, other=0.0)
    return total


@jit
def _with_adapter(total, from_low, b_CN, n, inside, N, part_stride, S: tl.constexpr, C):
    """Return the sums plus B times the low-rank inputs, which lie behind the product's outputs."""
    for c in range(C):
        low = _summed(from_low + c, True, part_stride, S)
        total += tl.load(b_CN + c * N + n, mask=inside, other=0.0).to(tl.float32) * low
    return total


@jit
def _residual_norm_kernel(
    parts_SBM, b_CN, residual_BN, weight_N, sum_BN, out_BN, B, M, N, C, eps,
    S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add one lane's product to its residual stream, and write the norm of the sum."""
    lane = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK)
    inside = n < N
    row, stride = parts_SBM + lane * M, B * M
    total = _summed(row + n, inside, stride, S)
    total = _with_adapter(total, row + N, b_CN, n, inside, N, stride, S, C)
    at = lane * N + n
    read = tl.load(residual_BN + at, mask=inside, other=0.0)
    # Rounded where the model's own code rounds: the product, then the sum.
    summed = (total.to(read.dtype).to(tl.float32) + read.to(tl.float32)).to(read.dtype)
    tl.store(sum_BN + at, summed, mask=inside)
    value = summed.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / N + eps)
    w = tl.load(weight_N + n, mask=inside, other=0.0)
    tl.store(out_BN + at, normalized_row(summed, inverse, w, False), mask=inside)


def residual_norm(
    parts_SBM: Tensor, b_CN: Tensor, residual_BN: Tensor, weight_N: Tensor, eps: float, warps: int
) -> tuple[Tensor, Tensor]:
    """Return the product plus residual_BN, and the RMSNorm of that sum."""
    splits, lanes, rows = parts_SBM.shape
    columns, width = b_CN.shape
    sums, out = torch.empty_like(residual_BN), torch.empty_like(residual_BN)
    _residual_norm_kernel[(lanes,)](
        parts_SBM, b_CN, residual_BN, weight_N, sums, out, lanes, rows, width, columns, eps,
        splits, next_power_of_two(width), num_warps=warps,
    )  # fmt: skip
    return sums, out


@jit
def _heads_kernel(
    parts_SBM, b_CN, cos_BD, sin_BD, q_BHD, keys, values, slots_B, positions_B, B, M, N, C,
    slot_stride, group_stride,
    H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, S: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Turn EACH heads of one lane; write queries to q, keys and values to the lane's slot."""
    lane = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * EACH + tl.arange(0, EACH)[:, None]
    d = tl.arange(0, HALF)[None, :]
    n = head * 2 * HALF + d
    inside = head < H + 2 * G
    inside = inside & (d < HALF)
    row, stride = parts_SBM + lane * M, B * M
    left = _summed(row + n, inside, stride, S)
    left = _with_adapter(left, row + N, b_CN, n, inside, N, stride, S, C)
    right = _summed(row + n + HALF, inside, stride, S)
    right = _with_adapter(right, row + N, b_CN, n + HALF, inside, N, stride, S, C)
    kind = q_BHD.dtype.element_ty
    left, right = left.to(kind).to(tl.float32), right.to(kind).to(tl.float32)
    c = tl.load(cos_BD + lane * 2 * HALF + d).to(tl.float32)
    s = tl.load(sin_BD + lane * 2 * HALF + d).to(tl.float32)
    turned = head < H + G
    one = tl.where(turned, left * c - right * s, left).to(kind)
    two = tl.where(turned, right * c + left * s, right).to(kind)
    is_query = inside & (head < H)
    to = q_BHD + (lane * H + head) * 2 * HALF + d
    tl.store(to, one, mask=is_query)
    tl.store(to + HALF, two, mask=is_query)
    place = tl.load(slots_B + lane) * slot_stride + tl.load(positions_B + lane) * 2 * HALF
    is_key = inside & (head >= H) & turned
    to = keys + place + (head - H) * group_stride + d
    tl.store(to, one, mask=is_key)
    tl.store(to + HALF, two, mask=is_key)
    is_value = inside & (head >= H + G)
    to = values + place + (head - H - G) * group_stride + d
    tl.store(to, one, mask=is_value)
    tl.store(to + HALF, two, mask=is_value)


def heads_to_cache(
    parts_SBM: Tensor,
    b_CN: Tensor,
    cos_BD: Tensor,
    sin_BD: Tensor,
    keys_SGCD: Tensor,
    values_SGCD: Tensor,
    slots_B: Tensor,
    positions_B: Tensor,
    *,
    heads: int,
    dtype: torch.dtype,
    each: int,
    warps: int,
) -> Tensor:
    """Return the turned queries q_BHD; keys and values of the lanes go to their slots."""
    splits, lanes, rows = parts_SBM.shape
    columns, outputs = b_CN.shape
    groups, width = keys_SGCD.shape[1], keys_SGCD.shape[3]
    q = torch.empty(lanes, heads, width, dtype=dtype, device=parts_SBM.device)
    _heads_kernel[(lanes, ceil_div(heads + 2 * groups, each))](
        parts_SBM, b_CN, cos_BD, sin_BD, q, keys_SGCD, values_SGCD, slots_B, positions_B,
        lanes, rows, outputs, columns, keys_SGCD.stride(0), keys_SGCD.stride(1),
        heads, groups, width // 2, splits, each, num_warps=warps,
    )  # fmt: skip
    return q


@jit
def _gated_kernel(
    parts_SBM, b_CN, out_BN, B, M, N, C, S: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write silu(gate) * up for a block of one lane's outputs; up lies N behind gate."""
    lane = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    row, stride = parts_SBM + lane * M, B * M
    low, both = row + 2 * N, 2 * N
    gate = _summed(row + n, inside, stride, S)
    gate = _with_adapter(gate, low, b_CN, n, inside, both, stride, S, C)
    up = _summed(row + N + n, inside, stride, S)
    up = _with_adapter(up, low, b_CN, N + n, inside, both, stride, S, C)
    kind = out_BN.dtype.element_ty
    gate, up = gate.to(kind).to(tl.float32), up.to(kind).to(tl.float32)
    active = (gate * tl.sigmoid(gate)).to(kind).to(tl.float32)
    tl.store(out_BN + lane * N + n, (active * up).to(kind), mask=inside)


def gated(parts_SBM: Tensor, b_CN: Tensor, dtype: torch.dtype, *, block: int, warps: int) -> Tensor:
    """Return silu(gate) * up of a product whose outputs are gate and, behind it, up."""
    splits, lanes, rows = parts_SBM.shape
    columns, both = b_CN.shape
    out = torch.empty(lanes, both // 2, dtype=dtype, device=parts_SBM.device)
    _gated_kernel[(lanes, ceil_div(both // 2, block))](
        parts_SBM, b_CN, out, lanes, rows, both // 2, columns, splits, block, num_warps=warps
    )
    return out
