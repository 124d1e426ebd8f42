"""Rotary position embeddings (Su et al. 2021, arXiv 2104.09864), turned in place where possible.

After Liger (Hsu et al. 2024, arXiv 2410.10989). The model's own code makes five tensors of the size
of the queries and keeps two.
"""

# T tokens, H heads, D head width

from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    tl,
)


def rotary_reference(x_1HTD: Tensor, cos_1TD: Tensor, sin_1TD: Tensor) -> Tensor:
    """Return x with the pairs (d, d + D/2) of each head turned by their position's angle."""
    left, right = x_1HTD.chunk(2, -1)
    return x_1HTD * cos_1TD[:, None] + torch.cat([-right, left], -1) * sin_1TD[:, None]


@jit
def _rotary_kernel(
    x,
    cos,
    sin,
    out,
    H,
    x_stride_t,
    x_stride_h,
    out_stride_t,
    out_stride_h,
    SIGN: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Turn a block of one token's heads, which are 2·HALF wide; `out` may be x."""
    t = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)
    in_d = d < HALF
    inside = (h < H)[:, None] & in_d[None, :]
    c = tl.load(cos + t * 2 * HALF + d, mask=in_d, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + t * 2 * HALF + d, mask=in_d, other=0.0).to(tl.float32)[None, :] * SIGN
    at = t * x_stride_t + h[:, None] * x_stride_h + d[None, :]
    # Both halves are loaded before either is stored, because out may be x.
    left = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    to = out + t * out_stride_t + h[:, None] * out_stride_h + d[None, :]
    tl.store(to, (left * c - right * s).to(out.dtype.element_ty), mask=inside)
    tl.store(to + HALF, (right * c + left * s).to(out.dtype.element_ty), mask=inside)


class Rotary(torch.autograd.Function):
    """Rotary embedding as an autograd function: Rotary.apply(x_1HTD, cos, sin, in_place).

    Keeps no activation: the backward pass turns the gradient back by the same angles. `in_place`
    overwrites x, and later its gradient; it is right only for an x that nothing else keeps or
    reads, and whose reader gives a gradient of its own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, in_place: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.in_place = in_place
        return _turn(x, cos, sin, 1, in_place=in_place)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(dy, cos, sin, -1, in_place=ctx.in_place), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int, *, in_place: bool) -> Tensor:
    """Return x turned forward (`sign` 1) or back (-1)."""
    if x.stride(-1) != 1:
        x, in_place = x.contiguous(), False
    _, heads, tokens, width = x.shape
    # A new tensor lies tokens first, as attention reads it.
    out = x if in_place else x.new_empty(1, tokens, heads, width).transpose(1, 2)
    block_h = min(8, next_power_of_two(heads))
    _rotary_kernel[(tokens, ceil_div(heads, block_h))](
        x, cos.contiguous(), sin.contiguous(), out, heads, x.stride(2), x.stride(1),
        out.stride(2), out.stride(1), sign, width // 2, block_h, next_power_of_two(width // 2),
    )  # fmt: skip
    return out
