"""A causal convolution of few tokens along each channel, then SiLU, over concatenated rows.

As the mixers of Qwen 3.5's gated delta layers begin; the frozen filter gets no gradient.
"""

# T tokens, C channels, W taps of the filter

from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.kernels.gated_linear import activation_and_slope
from workbench.training.step.kernels.triton_support import ceil_div, jit, tl


def short_convolution_reference(x_TC: Tensor, filter_CW: Tensor, row_T: Tensor) -> Tensor:
    """Return silu of the convolution by torch's operations; `row_T` numbers the row of each token.

    No token sees a row before its own.
    """
    filter_CW = filter_CW.float()
    total_TC = x_TC * filter_CW[:, -1]
    for back in range(1, filter_CW.shape[1]):
        before_TC = nn.functional.pad(x_TC, (0, 0, back, 0))[: len(x_TC)]
        same_T = row_T == nn.functional.pad(row_T, (back, 0), value=-1)[: len(x_TC)]
        total_TC = total_TC + torch.where(same_T[:, None], before_TC, 0) * filter_CW[:, -1 - back]
    return nn.functional.silu(total_TC.to(x_TC.dtype))


@jit
def _convolved(x_TC, filter_CW, row_T, row, t, c, inside, C, W: tl.constexpr):
    """Return the convolution at tokens t and channels c, rounded to x's type, in fp32."""
    total = tl.load(x_TC + t[:, None] * C + c[None, :], mask=inside, other=0.0).to(tl.float32)
    total *= tl.load(filter_CW + c * W + W - 1, mask=c < C, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(1, W):
        same = (tl.load(row_T + t - back, mask=t >= back, other=-1) == row) & (t >= back)
        before = tl.load(
            x_TC + (t[:, None] - back) * C + c[None, :], mask=inside & same[:, None], other=0.0
        )
        tap = tl.load(filter_CW + c * W + W - 1 - back, mask=c < C, other=0.0).to(tl.float32)
        total += before.to(tl.float32) * tap[None, :]
    return total.to(x_TC.dtype.element_ty).to(tl.float32)


@jit
def _convolution_kernel(
    x_TC, filter_CW, row_T, out_TC, dout_TC, T, C,
    W: tl.constexpr, BACKWARD: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write silu of the convolution, or, BACKWARD, the gradient of the convolution itself."""
    t = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (t < T)[:, None] & (c < C)[None, :]
    row = tl.load(row_T + t, mask=t < T, other=-2)
    y = _convolved(x_TC, filter_CW, row_T, row, t, c, inside, C, W)
    value, slope = activation_and_slope(y, False)
    at = t[:, None] * C + c[None, :]
    if BACKWARD:
        value = tl.load(dout_TC + at, mask=inside, other=0.0).to(tl.float32) * slope
    tl.store(out_TC + at, value.to(out_TC.dtype.element_ty), mask=inside)


@jit
def _input_gradient_kernel(
    dy_TC, filter_CW, row_T, dx_TC, T, C,
    W: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x from that of the convolution: each token had a part in W of them."""
    t = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (t < T)[:, None] & (c < C)[None, :]
    row = tl.load(row_T + t, mask=t < T, other=-2)
    total = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for ahead in tl.static_range(W):
        there = t + ahead < T
        same = (tl.load(row_T + t + ahead, mask=there, other=-1) == row) & there
        later = tl.load(
            dy_TC + (t[:, None] + ahead) * C + c[None, :], mask=inside & same[:, None], other=0.0
        )
        tap = tl.load(filter_CW + c * W + W - 1 - ahead, mask=c < C, other=0.0).to(tl.float32)
        total += later.to(tl.float32) * tap[None, :]
    to = dx_TC + t[:, None] * C + c[None, :]
    tl.store(to, total.to(dx_TC.dtype.element_ty), mask=inside)


class ShortConvolution(torch.autograd.Function):
    """silu(convolution) as an autograd function: ShortConvolution.apply(x_TC, filter_CW, row_T)."""

    @staticmethod
    def forward(ctx: Any, x_TC: Tensor, filter_CW: Tensor, row_T: Tensor) -> Tensor:
        x_TC, filter_CW = x_TC.contiguous(), filter_CW.contiguous()
        ctx.save_for_backward(x_TC, filter_CW, row_T)
        return _launch(x_TC, filter_CW, row_T, None)

    @staticmethod
    def backward(ctx: Any, dout_TC: Tensor) -> tuple[Tensor, None, None]:
        x_TC, filter_CW, row_T = ctx.saved_tensors
        dy_TC = _launch(x_TC, filter_CW, row_T, dout_TC.contiguous())
        dx_TC, (tokens, channels) = torch.empty_like(x_TC), x_TC.shape
        _input_gradient_kernel[(ceil_div(tokens, 32), ceil_div(channels, 128))](
            dy_TC, filter_CW, row_T, dx_TC, tokens, channels, filter_CW.shape[1], 32, 128
        )
        return dx_TC, None, None


def _launch(x_TC: Tensor, filter_CW: Tensor, row_T: Tensor, dout_TC: Tensor | None) -> Tensor:
    tokens, channels = x_TC.shape
    # The gradient of the convolution stays in fp32: it is rounded once, after its sums.
    out_TC = torch.empty_like(x_TC, dtype=x_TC.dtype if dout_TC is None else torch.float32)
    _convolution_kernel[(ceil_div(tokens, 32), ceil_div(channels, 128))](
        x_TC, filter_CW, row_T, out_TC, x_TC if dout_TC is None else dout_TC, tokens, channels,
        filter_CW.shape[1], dout_TC is not None, 32, 128,
    )  # fmt: skip
    return out_TC
