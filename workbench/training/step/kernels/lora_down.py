"""The down-projection of LoRA, low = scaling · dropout(x) @ A^T, forward and backward.

Up to four projections that share an input x (q, k and v; gate and up) are computed in one reading
of x, each with a dropout mask of its own, drawn in registers. Where x is a gated activation or the
output of a norm, the kernels can make it while they read what it follows from, so that it need not
be kept or read once more (docs/step.md#remaking-instead-of-keeping).
"""

# T tokens, K inputs, R rank, P projections of a group, S parts of a sum

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.training.step.kernels.gated_linear import activation_and_slope, gate_product
from workbench.training.step.kernels.masks import (
    apply_mask,
    drop_threshold,
    dropout_bits,
    is_kept,
    keep_scale,
    mask_sequence,
    stacked_mask,
)
from workbench.training.step.kernels.norm import normalized_row
from workbench.training.step.kernels.partial_sums import sum_parts
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    pipeline_stages,
    tl,
)

MOST_TOGETHER = 4
"""Projections of a stack at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedInput:
    """A projection's input that is act(gate) · up, where the kernel is given the gate."""

    up_TK: Tensor
    gelu: bool
    """GELU by tanh instead of SiLU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormedInput:
    """A projection's input that is the output of a norm, where the kernel is given the norm's."""

    rstd_T: Tensor
    """The inverse root mean square of each row of the norm's input."""
    weight_K: Tensor
    gemma: bool
    """Rows are multiplied by 1 + weight instead of weight."""


def _dropped(x_TK: Tensor, keys_S2: Tensor, p: float, index: int) -> Tensor:
    mask = stacked_mask((x_TK.shape[0], x_TK.shape[1]), keys_S2, p, index)
    return x_TK * mask / (1 - p)


def lora_down_reference(
    x_TK: Tensor, a_PRK: Tensor, keys_S2: Tensor, p: float, scaling: float
) -> Tensor:
    """Return low_PTR by torch's operations; p has to be a multiple of 1/1,024."""
    lows = [_dropped(x_TK, keys_S2, p, index) @ a.T for index, a in enumerate(a_PRK)]
    return torch.stack(lows) * scaling


def lora_down_backward_reference(
    x_TK: Tensor, dlow_PTR: Tensor, a_PRK: Tensor, keys_S2: Tensor, p: float, scaling: float
) -> tuple[Tensor, Tensor]:
    """Return (the gradient of A, PRK; that of x, TK) by torch's operations."""
    each = list(enumerate(zip(dlow_PTR, a_PRK, strict=True)))
    grads = [low.T @ _dropped(x_TK, keys_S2, p, index) for index, (low, _) in each]
    dx = [_dropped(low @ a, keys_S2, p, index) for index, (low, a) in each]
    return torch.stack(grads) * scaling, torch.stack(dx).sum(0) * scaling


@jit
def _element_numbers(t, k, K, FAR: tl.constexpr):
    """Return the numbers of x's elements: addresses, in 64 bits with FAR, and those of masks.

    Masks take 32 bits of them: beyond, they begin again.
    """
    row = t[:, None]
    if FAR:
        row = row.to(tl.int64)
    return row * K + k[None, :]


@jit
def _down_tile(
    x, bits, a_RK, k, in_k, r, R, K, FIELD: tl.constexpr,
    THRESHOLD: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """Return (mask_FIELD · x) @ A^T of one tile, unscaled."""
    inside = in_k[:, None] & (r < R)[None, :]
    a = tl.load(a_RK + r[None, :] * K + k[:, None], mask=inside, other=0.0)
    return tl.dot(apply_mask(x, bits, FIELD, THRESHOLD, DROP), a, input_precision="ieee")


@jit
def _lora_down_kernel(
    x_TK, up_TK, made_TK, a_PRK, parts_SPTR, keys, T, K, R, k_each, x_stride, up_stride,
    THRESHOLD: tl.constexpr, DROP: tl.constexpr, P: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr, FAR: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Write parts[s, p] = (mask_p · x) @ A_p^T over one stretch of K, for up to four p.

    GATED: x is the gate; the input, which is written to `made` as well, is act(x) · up.
    """
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    split = tl.program_id(1)
    r = tl.arange(0, BLOCK_R)
    in_t = t < T
    first = split * k_each
    # Four accumulators with names, because Triton has no lists of tensors; P is a constant, so
    # those that it leaves unused are compiled away.
    low0 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    low1 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    low2 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    low3 = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    begin, stride = mask_sequence(keys, DROP)
    if P > 3:
        # An element's bits serve three masks; the fourth projection has keys of its own.
        begin3, stride3 = mask_sequence(keys + 6, DROP)
    for start in range(first, tl.minimum(first + k_each, K), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        in_k = (k < K) & (k < first + k_each)
        at = _element_numbers(t, k, K, FAR)
        inside = in_t[:, None] & in_k[None, :]
        rows = t[:, None].to(tl.int64)
        x = tl.load(x_TK + rows * x_stride + k[None, :], mask=inside, other=0.0)
        if GATED:
            up = tl.load(up_TK + rows * up_stride + k[None, :], mask=inside, other=0.0)
            act, _ = activation_and_slope(x.to(tl.float32), GELU)
            x = gate_product(act, up)
            # These columns belong to this program alone, so the activation is written once.
            tl.store(made_TK + at, x, mask=inside)
            if not DROP:
                # Changes nothing, but Triton then makes it once for both readers. It would make it
                # again for the product, of gates that it reads two bytes at a time.
                x = tl.where(inside, x, 0.0)
        bits = dropout_bits(at, begin, stride, DROP)
        low0 += _down_tile(x, bits, a_PRK, k, in_k, r, R, K, 0, THRESHOLD, DROP)
        if P > 1:
            a1 = a_PRK + R * K
            low1 += _down_tile(x, bits, a1, k, in_k, r, R, K, 1, THRESHOLD, DROP)
        if P > 2:
            a2 = a_PRK + 2 * R * K
            low2 += _down_tile(x, bits, a2, k, in_k, r, R, K, 2, THRESHOLD, DROP)
        if P > 3:
            bits = dropout_bits(at, begin3, stride3, DROP)
            a3 = a_PRK + 3 * R * K
            low3 += _down_tile(x, bits, a3, k, in_k, r, R, K, 0, THRESHOLD, DROP)
    inside = in_t[:, None] & (r < R)[None, :]
    to = parts_SPTR + split.to(tl.int64) * P * T * R + t[:, None] * R + r[None, :]
    tl.store(to, low0, mask=inside)
    if P > 1:
        tl.store(to + T * R, low1, mask=inside)
    if P > 2:
        tl.store(to + 2 * T * R, low2, mask=inside)
    if P > 3:
        tl.store(to + 3 * T * R, low3, mask=inside)


def lora_down(
    x_TK: Tensor,
    a_PRK: Tensor,
    keys: Tensor,
    p: float,
    scaling: float,
    *,
    gated: GatedInput | None = None,
    made_TK: Tensor | None = None,
) -> Tensor:
    """Return low_PTR = scaling · dropout_p(x) @ A_p^T for MOST_TOGETHER projections or fewer.

    x is read once. `keys` begins with the two keys of each projection's mask (stacked_mask). With
    `gated`, x is the gate; the projections' input is made here and written to `made_TK`.
    """
    (tokens, width), (count, rank, _) = x_TK.shape, a_PRK.shape
    assert count <= MOST_TOGETHER
    # 264 programs are two for each of an H100's 132 multiprocessors. Blocks and programs were
    # chosen by measuring Llama 8B's shapes (docs/notes/2026-11-26-step.md, 2026-11-27-step.md, and
    # 2026-11-30-step.md).
    block_r = max(16, next_power_of_two(rank))
    block_t, block_k, programs = 32, 128 if block_r <= 32 else 32, 264
    if gated and block_r <= 32:
        block_t, programs = 16, 528
    # Four projections would not fit a 3090's shared memory.
    elif (width > 8192 or p == 0) and block_r <= 32 and count < 4:
        block_t = 64
    blocks = ceil_div(tokens, block_t)
    parts = max(1, min(ceil_div(programs, blocks), ceil_div(width, 4 * block_k)))
    # A stretch is of whole blocks, so fewer parts than planned may cover the width.
    k_each = ceil_div(ceil_div(width, parts), block_k) * block_k
    parts = ceil_div(width, k_each)
    parts_SPTR = x_TK.new_empty(parts, count, tokens, rank, dtype=torch.float32)
    up_TK = gated.up_TK if gated else x_TK
    _lora_down_kernel[(blocks, parts)](
        x_TK, up_TK, x_TK if made_TK is None else made_TK, a_PRK, parts_SPTR, keys,
        tokens, width, rank, k_each, x_TK.stride(0), up_TK.stride(0),
        drop_threshold(p), p > 0.0, count, gated is not None, gated is not None and gated.gelu,
        x_TK.numel() >= 2**31, block_t, block_k, block_r,
        num_stages=pipeline_stages(x_TK, 2 if count * block_r > 512 else 3),
    )  # fmt: skip
    low_PTR = x_TK.new_empty(count, tokens, rank)
    return sum_parts(parts_SPTR, low_PTR, scaling * keep_scale(p), add=False)


@jit
def _down_tile_backward(
    x, bits, dlow_TR, a_RK, t, in_t, k, in_k, r, R, K, FIELD: tl.constexpr,
    SCALE: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr,
    HAS_DX: tl.constexpr,
):  # fmt: skip
    """Return (share of dA, share of dx) of one projection on one tile."""
    in_r = r < R
    inside = in_t[:, None] & in_r[None, :]
    low = tl.load(dlow_TR + t[:, None] * R + r[None, :], mask=inside, other=0.0)
    delta = tl.zeros(x.shape, dtype=tl.float32)
    kept_x = apply_mask(x, bits, FIELD, THRESHOLD, DROP)
    if HAS_DX:
        a = tl.load(
            a_RK + r[:, None] * K + k[None, :], mask=in_r[:, None] & in_k[None, :], other=0.0
        )
        delta = tl.dot(low, a, input_precision="ieee") * SCALE
        if DROP:
            # The gradient passes where the element was kept, by the same bits as forward.
            delta = tl.where(is_kept(bits, FIELD, THRESHOLD), delta, 0.0)
    return tl.dot(tl.trans(low), kept_x, input_precision="ieee"), delta


@jit
def _lora_down_backward_kernel(
    x_TK, up_TK, weight_K, rstd_T, dx_TK, dlow_PTR, a_PRK, da_SPRK, keys, T, K, R, rows_each,
    x_stride, up_stride,
    SCALE: tl.constexpr, THRESHOLD: tl.constexpr, DROP: tl.constexpr,
    HAS_DX: tl.constexpr, ADD_DX: tl.constexpr, P: tl.constexpr,
    GATED: tl.constexpr, GELU: tl.constexpr, NORMED: tl.constexpr, GEMMA: tl.constexpr,
    FAR: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """Write da[s, p] = dlow_p^T @ (mask_p · x) over one stretch of T, and the input's gradient.

    dx (+)= the sum over p of mask_p · (dlow_p @ A_p) · SCALE. x is read once for up to four p. da
    still lacks SCALE, which is scaling / (1 - dropout).
    GATED: x is the gate and the input act(gate) · up; dx is only read, and gate and up become their
    gradients. NORMED: the input is a norm's output, and x the norm's input.
    """
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    split = tl.program_id(1)
    r = tl.arange(0, BLOCK_R)
    in_k = k < K
    da0 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    da1 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    da2 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    da3 = tl.zeros((BLOCK_R, BLOCK_K), dtype=tl.float32)
    begin, stride = mask_sequence(keys, DROP)
    if P > 3:
        begin3, stride3 = mask_sequence(keys + 6, DROP)
    # The norm's weights of these columns serve all rows of the loop.
    if NORMED:
        w = tl.load(weight_K + k, mask=in_k, other=0.0)[None, :]
    first = split * rows_each
    for start in range(first, tl.minimum(first + rows_each, T), BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        # Rows beyond the stretch belong to the next program; they would be counted twice.
        in_t = (t < T) & (t < first + rows_each)
        at = _element_numbers(t, k, K, FAR)
        inside = in_t[:, None] & in_k[None, :]
        at_x = t[:, None].to(tl.int64) * x_stride + k[None, :]
        x = tl.load(x_TK + at_x, mask=inside, other=0.0)
        if GATED:
            at_up = t[:, None].to(tl.int64) * up_stride + k[None, :]
            up = tl.load(up_TK + at_up, mask=inside, other=0.0)
            act, slope = activation_and_slope(x.to(tl.float32), GELU)
            x = gate_product(act, up)
        if NORMED:
            rstd = tl.load(rstd_T + t, mask=in_t, other=0.0)[:, None]
            x = normalized_row(x, rstd, w, GEMMA)
        bits = dropout_bits(at, begin, stride, DROP)
        part, dx = _down_tile_backward(
            x, bits, dlow_PTR, a_PRK, t, in_t, k, in_k, r, R, K, 0,
            SCALE, THRESHOLD, DROP, HAS_DX,
        )  # fmt: skip
        da0 += part
        if P > 1:
            part, more = _down_tile_backward(
                x, bits, dlow_PTR + T * R, a_PRK + R * K, t, in_t, k, in_k, r, R, K, 1,
                SCALE, THRESHOLD, DROP, HAS_DX,
            )  # fmt: skip
            da1 += part
            dx += more
        if P > 2:
            part, more = _down_tile_backward(
                x, bits, dlow_PTR + 2 * T * R, a_PRK + 2 * R * K, t, in_t, k, in_k, r, R,
                K, 2, SCALE, THRESHOLD, DROP, HAS_DX,
            )  # fmt: skip
            da2 += part
            dx += more
        if P > 3:
            part, more = _down_tile_backward(
                x, dropout_bits(at, begin3, stride3, DROP), dlow_PTR + 3 * T * R,
                a_PRK + 3 * R * K, t, in_t, k, in_k, r, R, K, 0, SCALE, THRESHOLD, DROP, HAS_DX,
            )  # fmt: skip
            da3 += part
            dx += more
        if ADD_DX:
            dx += tl.load(dx_TK + at, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            # d(act(gate) · up): the gate's gradient goes through the slope, that of up through act.
            tl.store(x_TK + at_x, (dx * up.to(tl.float32) * slope).to(x.dtype), mask=inside)
            tl.store(up_TK + at_up, (dx * act).to(x.dtype), mask=inside)
        elif HAS_DX:
            tl.store(dx_TK + at, dx.to(dx_TK.dtype.element_ty), mask=inside)
    to = da_SPRK + (split * P * R + r[:, None]) * K + k[None, :]
    inside = (r < R)[:, None] & in_k[None, :]
    tl.store(to, da0, mask=inside)
    if P > 1:
        tl.store(to + R * K, da1, mask=inside)
    if P > 2:
        tl.store(to + 2 * R * K, da2, mask=inside)
    if P > 3:
        tl.store(to + 3 * R * K, da3, mask=inside)


def lora_down_backward(
    x_TK: Tensor,
    dx_TK: Tensor | None,
    dlow_PTR: Tensor,
    a_PRK: Tensor,
    grad_PRK: Tensor,
    keys: Tensor,
    p: float,
    scaling: float,
    *,
    add: bool,
    add_dx: bool,
    made: GatedInput | NormedInput | None = None,
) -> None:
    """Write A's gradient to `grad_PRK` and the low-rank path's share of dx to `dx_TK`.

    `add` and `add_dx` add to them instead. x is read once for all projections, and no mask is
    stored. `keys` begins with the two keys of each one's mask. `dx_TK` may be x itself, unless it
    is added to.

    With `made`, x is the gate or the norm's input, and the projections' input is made here. With a
    gate, `dx_TK` is only read, and x and up become their gradients.

    Deterministic: parts of T are summed in a second launch, never by atomic additions.
    """
    (tokens, width), (count, rank, _) = x_TK.shape, a_PRK.shape
    assert count <= MOST_TOGETHER
    gated = made if isinstance(made, GatedInput) else None
    normed = made if isinstance(made, NormedInput) else None
    block_r = max(16, next_power_of_two(rank))
    block_k, block_t = 32, 64 if block_r <= 32 else 32
    # Parts of T, where the blocks of columns alone would not fill the card twice.
    parts = max(2, ceil_div(264 * block_k, width))
    warps, stages = 4, 3 if count <= 2 or block_r <= 32 else 2
    if gated and block_r <= 32:
        # A program of one warp waits for no other one where its tiles change their layout.
        block_t, warps = 16, 1
        parts = min(ceil_div(tokens, 400), max(2, ceil_div(4224 * block_k, width)))
    elif x_TK.dtype.itemsize == 4 and block_r > 128:
        block_t = 16  # two fp32 tiles of 32 × 256 do not fit a T4's shared memory
    parts = min(parts, ceil_div(tokens, block_t))
    rows_each = ceil_div(ceil_div(tokens, parts), block_t) * block_t
    parts = ceil_div(tokens, rows_each)
    up_TK = gated.up_TK if gated else x_TK
    da_SPRK = x_TK.new_empty(parts, count, rank, width, dtype=torch.float32)
    _lora_down_backward_kernel[(ceil_div(width, block_k), parts)](
        x_TK, up_TK, normed.weight_K if normed else x_TK, normed.rstd_T if normed else x_TK,
        x_TK if dx_TK is None else dx_TK, dlow_PTR, a_PRK, da_SPRK, keys,
        tokens, width, rank, rows_each, x_TK.stride(0), up_TK.stride(0),
        scaling * keep_scale(p), drop_threshold(p), p > 0.0, dx_TK is not None, add_dx, count,
        gated is not None, gated is not None and gated.gelu,
        normed is not None, normed is not None and normed.gemma,
        x_TK.numel() >= 2**31, block_t, block_k, block_r,
        num_warps=warps, num_stages=pipeline_stages(x_TK, stages),
    )  # fmt: skip
    sum_parts(da_SPRK, grad_PRK, scaling * keep_scale(p), add=add)
