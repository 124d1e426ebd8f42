"""Gated activations act(gate) · up, with SiLU or tanh-GELU (Shazeer 2020, arXiv 2002.05202).

One launch forward and one backward, after Liger (Hsu et al. 2024, arXiv 2410.10989); the model's
own code keeps act(gate) and the product beside gate and up.
"""

# T tokens, N width

from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.kernels.triton_math import sigmoid
from workbench.training.step.kernels.triton_support import (
    ceil_div,
    jit,
    next_power_of_two,
    tl,
)


def gated_linear_reference(gate: Tensor, up: Tensor, *, gelu: bool) -> Tensor:
    """Return act(gate) · up by torch's own operations."""
    act = nn.functional.gelu(gate, approximate="tanh") if gelu else nn.functional.silu(gate)
    return act * up


@jit
def activation_and_slope(gate, GELU: tl.constexpr):
    """Return (act(gate), its derivative) in fp32: SiLU, or GELU by tanh."""
    if GELU:
        # (1 + tanh(y)) / 2 is sigmoid(2y), and 1.595... = 2 sqrt(2 / pi): Hendrycks and Gimpel
        # 2016, arXiv 1606.08415.
        square = gate * gate
        s = sigmoid(1.5957691216057308 * gate * (1.0 + 0.044715 * square))
        inner_slope = 1.5957691216057308 * (1.0 + 3.0 * 0.044715 * square)
        return gate * s, s * (1.0 + gate * (1.0 - s) * inner_slope)
    s = sigmoid(gate)
    return gate * s, s * (1.0 + gate * (1.0 - s))


@jit
def gate_product(act, up):
    """Return act · up, rounded to 16 bits where the models' own code rounds."""
    return (act.to(up.dtype).to(tl.float32) * up.to(tl.float32)).to(up.dtype)


@jit
def _gated_linear_kernel(
    gate, up, out, width, gate_stride, up_stride, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    """Write act(gate) · up of one block of a row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0)
    act, _ = activation_and_slope(g, GELU)
    tl.store(out + row * width + at, gate_product(act, u), mask=inside)


@jit
def _gated_linear_backward_kernel(
    dy, gate, up, width, gate_stride, up_stride, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    """Replace gate and up by their gradients, of one block of a row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    d = tl.load(dy + row * width + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + row * gate_stride + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + at, mask=inside, other=0.0).to(tl.float32)
    act, slope = activation_and_slope(g, GELU)
    dgate, dup = (d * u * slope).to(gate.dtype.element_ty), (d * act).to(up.dtype.element_ty)
    tl.store(gate + row * gate_stride + at, dgate, mask=inside)
    tl.store(up + row * up_stride + at, dup, mask=inside)


class GatedLinear(torch.autograd.Function):
    """act(gate) · up as an autograd function: GatedLinear.apply(gate, up, gelu).

    Keeps its two inputs alone, and writes their gradients in their place, because nothing else
    keeps the output of those projections. So it can go backward only once. Without `up`, gate and
    up are the halves of one tensor, and so are their gradients.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor | None, gelu: bool) -> Tensor:
        out = gated_linear(gate, up, gelu=gelu)
        kept = (flatten_rows(gate),) if up is None else (flatten_rows(gate), flatten_rows(up))
        ctx.save_for_backward(*kept)
        ctx.gelu = gelu
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        saved = ctx.saved_tensors
        # Their memory becomes that of the gradients below.
        gate_TN, up_TN = saved if len(saved) == 2 else split_halves(saved[0])
        shape, dy = dy.shape, dy.contiguous()
        width = shape[-1]
        block = min(2048, next_power_of_two(width))
        _gated_linear_backward_kernel[(gate_TN.shape[0], ceil_div(width, block))](
            dy, gate_TN, up_TN, width, gate_TN.stride(0), up_TN.stride(0), ctx.gelu, block
        )
        if len(saved) == 1:
            return saved[0].view(*shape[:-1], -1), None, None
        return gate_TN.view(shape), up_TN.view(shape), None


def gated_linear(gate: Tensor, up: Tensor | None = None, *, gelu: bool) -> Tensor:
    """Return act(gate) · up; without `up`, gate and up are the halves of `gate`."""
    gate_TN, up_TN = split_halves(gate) if up is None else (flatten_rows(gate), flatten_rows(up))
    width = gate_TN.shape[1]
    out, block = gate.new_empty(*gate.shape[:-1], width), min(2048, next_power_of_two(width))
    _gated_linear_kernel[(gate_TN.shape[0], ceil_div(width, block))](
        gate_TN, up_TN, out, width, gate_TN.stride(0), up_TN.stride(0), gelu, block
    )
    return out


def flatten_rows(tensor: Tensor) -> Tensor:
    """Return the tensor as a matrix whose rows are its last dimension."""
    return tensor.reshape(-1, tensor.shape[-1])


def split_halves(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left and right halves of the tensor's rows, as matrices that share its memory."""
    left, right = flatten_rows(tensor).chunk(2, -1)
    return left, right
