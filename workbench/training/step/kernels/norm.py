"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), one launch forward and one backward.

After Liger (Hsu et al. 2024, arXiv 2410.10989), without the gradient of the weight: norms are
frozen here. The model's own norm takes seven launches and keeps its input in fp32.
"""

# T rows, K width

from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.triton_support import jit, next_power_of_two, tl


def rms_norm_reference(x: Tensor, weight_K: Tensor, eps: float, *, gemma: bool) -> Tensor:
    """Return x / rms(x) · weight over the last dimension, or · (1 + weight) with `gemma`."""
    unit = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return unit * (weight_K + 1 if gemma else weight_K)


@jit
def normalized_row(x, rstd, w, GEMMA: tl.constexpr):
    """Return RMSNorm's output for loaded values, rounded where the models' own code rounds."""
    value = x.to(tl.float32) * rstd
    if GEMMA:
        value *= 1.0 + w.to(tl.float32)
    else:
        # Llama's norm rounds before it multiplies by the weight, Gemma's after.
        value = value.to(x.dtype).to(tl.float32) * w.to(tl.float32)
    return value.to(x.dtype)


@jit
def _rms_norm_kernel(
    x, weight, out, rstd, width, inner, outer_stride, inner_stride, eps,
    GEMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Normalise one row a program, and write its inverse root mean square to `rstd`.

    Rows lie in two dimensions of x, of which the second is `inner` long; `out` is contiguous.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    x += row // inner * outer_stride + row % inner * inner_stride
    read = tl.load(x + at, mask=inside, other=0.0)
    value = read.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(rstd + row, inverse)
    w = tl.load(weight + at, mask=inside, other=0.0)
    tl.store(out + row * width + at, normalized_row(read, inverse, w, GEMMA), mask=inside)


@jit
def _rms_norm_backward_kernel(
    dy, x, weight, rstd, dx, width, inner, outer_stride, inner_stride,
    dy_inner, dy_outer_stride, dy_inner_stride, GEMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write dx of one row; it lies as dy does and may be dy, x lies as in the forward pass."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    w = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if GEMMA:
        w += 1.0
    inverse = tl.load(rstd + row)
    x += row // inner * outer_stride + row % inner * inner_stride
    at_dy = row // dy_inner * dy_outer_stride + row % dy_inner * dy_inner_stride + at
    # With unit = x · rstd: dx = rstd · (w·dy - unit · mean(w·dy · unit)).
    unit = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * inverse
    wdy = tl.load(dy + at_dy, mask=inside, other=0.0).to(tl.float32) * w
    mean = tl.sum(wdy * unit, 0) / width
    tl.store(dx + at_dy, ((wdy - unit * mean) * inverse).to(dx.dtype.element_ty), mask=inside)


class RmsNorm(torch.autograd.Function):
    """RMSNorm as an autograd function: RmsNorm.apply(x, weight, eps, gemma, of_heads) gives
    (out, rstd).

    Keeps the input and one fp32 number a row. Norms of queries and keys, of each head or of all
    together, read them where they lie in the output of their projection, without a copy. A norm
    `of_heads`, (1, tokens, heads, width) or heads first, overwrites its output's gradient, so that
    the gradients of queries, keys and values lie beside each other as attention made them
    (lora_up.join_columns). That is right only for an output whose reader gives a gradient of its
    own; a sum gives one to all that it adds.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: float, gemma: bool, of_heads: bool = False
    ) -> tuple[Tensor, Tensor]:
        # Gemma 3 passes heads first, (1, heads, tokens, width), a transposed view. Its output is
        # made in memory's order, tokens first; attention would copy it otherwise.
        ctx.turned = x.ndim == 4 and x.stride(1) < x.stride(2)
        x = x.transpose(1, 2) if ctx.turned else x
        x = x if _row_layout(x) else x.contiguous()
        out, rstd = rms_norm(x, weight, eps=eps, gemma=gemma)
        ctx.save_for_backward(x, weight, rstd)
        ctx.mark_non_differentiable(rstd)
        ctx.gemma, ctx.of_heads = gemma, of_heads
        return out.transpose(1, 2) if ctx.turned else out, rstd

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rstd = ctx.saved_tensors
        dy, width = dy.transpose(1, 2) if ctx.turned else dy, x.shape[-1]
        if ctx.of_heads:
            dx = dy = dy if _row_layout(dy) else dy.contiguous()
        else:
            dy, dx = dy.contiguous(), x.new_empty(x.shape)
        _rms_norm_backward_kernel[(rstd.numel(),)](
            dy, x, weight, rstd, dx, width, *_row_layout(x), *_row_layout(dy), ctx.gemma,
            next_power_of_two(width), num_warps=_warps(width),
        )  # fmt: skip
        return dx.transpose(1, 2) if ctx.turned else dx, None, None, None, None


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, gemma: bool) -> tuple[Tensor, Tensor]:
    """Return (the normalised x, contiguous; the inverse root mean square of each row, fp32).

    With `gemma` rows are multiplied by 1 + weight, and the product is rounded once, at the end.
    """
    width = x.shape[-1]
    out, rstd = x.new_empty(x.shape), x.new_empty(x.numel() // width, dtype=torch.float32)
    _rms_norm_kernel[(rstd.numel(),)](
        x, weight, out, rstd, width, *_row_layout(x), eps, gemma, next_power_of_two(width),
        num_warps=_warps(width),
    )  # fmt: skip
    return out, rstd


def _warps(width: int) -> int:
    # A row is held in registers: 32 elements a thread at 4,096.
    return 4 if width <= 4096 else 8


def _row_layout(x: Tensor) -> tuple[int, int, int] | tuple[()]:
    """Return how x's rows lie: (length of the inner dimension, stride of the outer, of the inner).

    Return () where rows lie in more than two dimensions that cannot be merged.
    """
    if x.is_contiguous():
        return 1, x.shape[-1], 0
    if x.ndim == 4 and x.shape[0] == 1 and x.stride(3) == 1:
        return x.shape[2], x.stride(1), x.stride(2)
    if x.ndim == 3 and x.shape[0] == 1 and x.stride(2) == 1:
        return 1, x.stride(1), 0
    return ()
