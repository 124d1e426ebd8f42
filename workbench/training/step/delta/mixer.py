"""Gated delta layers of one model: their forward for concatenated rows, until restore().

The linear layers around stay modules, which the fused projections compute. All between them is one
autograd function that keeps their outputs alone and computes the rest again in the backward pass:
the rule's own tensors would be ten times as many bytes.
"""

# T tokens, C channels of the convolution, W its width, H value heads, V values of their heads

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from workbench.footprint.model.linear_attention import DeltaLayers
from workbench.training.step.delta.rule import RuleChoice
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.gated_linear import GatedLinear
from workbench.training.step.kernels.norm import RmsNorm
from workbench.training.step.kernels.short_convolution import (
    ShortConvolution,
    short_convolution_reference,
)
from workbench.training.step.rows import row_of_tokens

MIXER = "linear_attn"
"""The name of a gated delta layer's mixer in its decoder layer."""


class DeltaMixers:
    """The gated delta mixers of a decoder's layers, with their forward replaced."""

    def __init__(self, layers: Iterable[nn.Module], choice: RuleChoice) -> None:
        """Replace the forwards; they need `cu_seq_lens_q`, as attention does."""
        self.choice = choice
        self._modules = find_mixers(layers)
        for module in self._modules:
            module.__dict__["forward"] = _mixer_forward(module, choice)

    def restore(self) -> None:
        """Give the modules back their own forward."""
        for module in self._modules:
            module.__dict__.pop("forward", None)
        self._modules = []


def find_mixers(layers: Iterable[nn.Module]) -> list[Any]:
    """Return the gated delta mixers of the layers that have one."""
    return [mixer for layer in layers if (mixer := getattr(layer, MIXER, None)) is not None]


def _mixer_forward(module: Any, choice: RuleChoice) -> Callable[..., Tensor]:
    original: Callable[..., Tensor] = module.forward

    def forward(hidden_states: Tensor, **more: Any) -> Tensor:
        if not module.training:
            return original(hidden_states=hidden_states, **more)
        # One tensor object for all four: the first projection computes the outputs of all.
        inputs = [
            projection(hidden_states).squeeze(0)
            for projection in (
                module.in_proj_qkv, module.in_proj_z, module.in_proj_b, module.in_proj_a
            )
        ]  # fmt: skip
        weights = (module.conv1d.weight, module.A_log, module.dt_bias, module.norm.weight)
        out: Tensor = _Mix.apply(module, choice, more["cu_seq_lens_q"], *inputs, *weights)  # type: ignore[no-untyped-call]
        mixed: Tensor = module.out_proj(out[None])
        return mixed

    return forward


class _Mix(torch.autograd.Function):
    """All between the projections, as a function that keeps its inputs alone.

    Heads are computed some at a time, so many that the rule's tensors stay within a fixed size.
    """

    @staticmethod
    def forward(ctx: Any, module: Any, choice: RuleChoice, cu: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(cu, *tensors)
        ctx.module, ctx.choice = module, choice
        with _products_for(tensors[0]):
            outs = [
                _mix(module, choice, cu, *(_narrow(tensors, part) for part in parts))
                for parts in _head_parts(module, len(tensors[0]))
            ]
        return outs[0] if len(outs) == 1 else torch.cat(outs, 1)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        cu, *tensors = ctx.saved_tensors
        asked = ctx.needs_input_grad[3:]
        grads = _zeros_together(tensors, asked)
        at = 0
        for parts in _head_parts(ctx.module, len(tensors[0])):
            leaves = [
                _narrow(tensors, part).detach().requires_grad_(asked[part[0]]) for part in parts
            ]
            wanted = [part for part in parts if asked[part[0]]]
            each = [leaf for leaf in leaves if leaf.requires_grad]
            with torch.enable_grad(), _products_for(tensors[0]):
                out = _mix(ctx.module, ctx.choice, cu, *leaves)
                found = torch.autograd.grad(out, each, dout[:, at : at + out.shape[1]])
            for part, grad in zip(wanted, found, strict=True):
                _narrow(grads, part).add_(grad)
            at += out.shape[1]
        given = (grad if need else None for grad, need in zip(grads, asked, strict=True))
        return None, None, None, *given


Part = tuple[int, int, int, int]
"""A part of one of the function's tensors: its index, a dimension, where it begins, its length."""


def _head_parts(module: Any, tokens: int) -> list[list[Part]]:
    """Return, for each group of heads that is computed at a time, its parts of the tensors."""
    keys, values = module.num_k_heads, module.num_v_heads
    width, wide, times = module.head_k_dim, module.head_v_dim, values // keys
    sizes = DeltaLayers(
        count=1, key_heads=keys, value_heads=values, key_width=width, value_width=wide
    )
    step = sizes.heads_at_once(tokens)
    found = []
    for first in range(0, keys, step):
        count = min(step, keys - first)
        heads = (first * times, count * times)
        q, v = (first * width, count * width), (heads[0] * wide, heads[1] * wide)
        k, behind = (module.key_dim + q[0], q[1]), (2 * module.key_dim + v[0], v[1])
        found.append(
            [
                (0, 1, *q), (0, 1, *k), (0, 1, *behind), (1, 1, *v), (2, 1, *heads), (3, 1, *heads),
                (4, 0, *q), (4, 0, *k), (4, 0, *behind), (5, 0, *heads), (6, 0, *heads),
                (7, 0, 0, wide),
            ]
        )  # fmt: skip
    return found


def _narrow(tensors: Sequence[Tensor], part: Part) -> Tensor:
    index, *where = part
    return tensors[index].narrow(*where)


def _zeros_together(tensors: Sequence[Tensor], asked: Sequence[bool]) -> list[Tensor]:
    """Return a zero gradient for each tensor that asks for one, else any tensor.

    Those of the projections' outputs lie beside each other, so that one product reads all of them.
    """
    widths = [tensor.shape[1] for tensor in tensors[:4]]
    beside = torch.split(tensors[0].new_zeros(len(tensors[0]), sum(widths)), widths, 1)
    rest = zip(tensors[4:], asked[4:], strict=True)
    return [*beside, *(torch.zeros_like(tensor) if need else tensor for tensor, need in rest)]


def _mix(
    module: Any,
    choice: RuleChoice,
    cu: Tensor,
    q_TC: Tensor,
    k_TC: Tensor,
    v_TC: Tensor,
    z_TV: Tensor,
    b_TH: Tensor,
    a_TH: Tensor,
    q_weight_C1W: Tensor,
    k_weight_C1W: Tensor,
    v_weight_C1W: Tensor,
    a_log_H: Tensor,
    dt_bias_H: Tensor,
    norm_V: Tensor,
) -> Tensor:
    """Return what out_proj reads, out_TV, rounded where the model's own code rounds."""
    width, wide = module.head_k_dim, module.head_v_dim
    filter_CW = torch.cat([q_weight_C1W, k_weight_C1W, v_weight_C1W]).squeeze(1)
    mixed_TC = _convolve(torch.cat([q_TC, k_TC, v_TC], 1), filter_CW, cu)
    q, k, v = torch.split(mixed_TC, [q_TC.shape[1], k_TC.shape[1], v_TC.shape[1]], 1)
    tokens = len(q)
    decay_TH = -a_log_H.float().exp() * nn.functional.softplus(a_TH.float() + dt_bias_H)
    out_THV = choice.rule(
        q.view(tokens, -1, width), k.view(tokens, -1, width), v.view(tokens, -1, wide),
        decay_TH, b_TH.sigmoid(), cu,
    ).to(q_TC.dtype, memory_format=torch.contiguous_format)  # fmt: skip
    return _gated_norm(out_THV, z_TV, norm_V, module.norm.variance_epsilon)


def _convolve(x_TC: Tensor, filter_CW: Tensor, cu: Tensor) -> Tensor:
    """Return silu of the causal convolution of each channel; no row sees the row before it."""
    row_T = row_of_tokens(cu, len(x_TC))
    if filter_CW.requires_grad or not triton_support.is_usable(x_TC.device):
        return short_convolution_reference(x_TC, filter_CW, row_T)
    out: Tensor = ShortConvolution.apply(x_TC, filter_CW, row_T)  # type: ignore[no-untyped-call]
    return out


def _gated_norm(x_THV: Tensor, z_TC: Tensor, norm_V: Tensor, eps: float) -> Tensor:
    """Return RMSNorm(x) · silu(z) as out_TC; the backward pass may write over z."""
    if not norm_V.requires_grad and triton_support.is_usable(x_THV.device):
        normed_THV, _ = RmsNorm.apply(x_THV.contiguous(), norm_V, eps, False)  # type: ignore[no-untyped-call]
        out: Tensor = GatedLinear.apply(z_TC, normed_THV.flatten(1), False)  # type: ignore[no-untyped-call]
        return out
    values = x_THV.float()
    unit = values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
    normed_TC = (norm_V * unit.to(x_THV.dtype)).float().flatten(1)
    return (normed_TC * nn.functional.silu(z_TC.float())).to(x_THV.dtype)


@contextmanager
def _products_for(x: Tensor) -> Iterator[None]:
    """Compute products as they are written, without autocast; in TF32 where x is in 16 bits."""
    before = torch.get_float32_matmul_precision()
    if x.is_cuda and x.dtype.itemsize < 4:
        torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(x.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
