"""The autograd functions of a group of LoRA projections.

Against PEFT over bitsandbytes they save: the input is kept once a group instead of once a
projection and once more for each dropout, or not at all (remake.py); no mask is kept; a weight is
dequantised once a pass, into a shared workspace; the low-rank product is added in place instead of
through three temporaries; gradients go straight into the flat buffer. The hand-written backward is
Unsloth's idea (github.com/unslothai/unsloth).
"""

# T tokens, K inputs, N outputs, R rank, S sites, P adapters of a stack

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workbench.training.step.kernels.gated_linear import flatten_rows, split_halves
from workbench.training.step.kernels.lora_down import (
    GatedInput,
    NormedInput,
    lora_down,
    lora_down_backward,
)
from workbench.training.step.kernels.lora_up import lora_up_backward
from workbench.training.step.kernels.masks import apply_dropout
from workbench.training.step.lora.adapters import AdapterStack
from workbench.training.step.lora.group import ProjectionGroup, RunningSum
from workbench.training.step.lora.remake import Remake, find_remake


def project_input(group: ProjectionGroup, index: int, x: Tensor) -> Tensor:
    """Return the output of the group's projection `index` for x.

    The first call with an x computes the outputs of all projections; later calls with the same
    tensor collect theirs.
    """
    if group.outputs_for is not x or index not in group.outputs:
        outs = _Projections.apply(x, group.anchor, group, find_remake(x))  # type: ignore[no-untyped-call]
        group.outputs_for, group.outputs = x, dict(enumerate(outs))
    out = group.outputs.pop(index)
    if not group.outputs:
        group.outputs_for = None
    return out


def project_gated(group: ProjectionGroup, gate: Tensor, up: Tensor | None, *, gelu: bool) -> Tensor:
    """Return the output of the group's only projection for act(gate) · up.

    Without `up`, gate and up are the halves of `gate`. Both are overwritten by their gradients in
    the backward pass. The group's `can_read_gated` says whether this is possible.
    """
    handover = _Handover()
    x: Tensor = _GatedInput.apply(gate, up, group.anchor, group, gelu, handover)  # type: ignore[no-untyped-call]
    out: Tensor = _GatedProduct.apply(x, group, handover)  # type: ignore[no-untyped-call]
    return out


class _Projections(torch.autograd.Function):
    """The projections of a group as one function; see project_input()."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor | None, group: ProjectionGroup, remake: Remake | None
    ) -> tuple[Tensor, ...]:
        x_TK = x.reshape(-1, x.shape[-1])
        keys_S2 = group.draw.keys_S2
        lows = [_project_down(x_TK, stack, keys_S2) for stack in group.stacks]
        # `anchor` is not read: as a trained input it makes autograd call backward.
        outs = group.multiply(x_TK, lows)
        kept: tuple[Tensor, ...] = ()
        if group.stacks:  # without an adapter nothing of x is needed again
            kept = remake.kept if remake is not None else (x,)
        ctx.save_for_backward(*kept, *lows)
        # The next micro-step makes new keys, so these stay what this forward pass drew with.
        ctx.group, ctx.keys_S2, ctx.first = group, keys_S2, group.draw.first
        ctx.shape, ctx.kept = x.shape, len(kept)
        ctx.remake = remake and replace(remake, kept=())
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        # Unpacked once: with a layer that recomputes, saved tensors may not be read twice.
        group, saved = ctx.group, ctx.saved_tensors
        kept, lows = saved[: ctx.kept], saved[ctx.kept :]
        x, owned, made = _find_input(ctx, kept, grads[0])
        x_TK = x.reshape(-1, ctx.shape[-1])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = RunningSum(x_TK if owned else torch.empty_like(x_TK))
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        # Before the large products: these read x, whose place dx may take.
        for stack, low_PTR in zip(group.stacks, lows, strict=True):
            ours = [dys[index] for index in stack.members]
            _low_rank_backward(x_TK, made, dx, ours, low_PTR, stack, ctx.keys_S2, first=ctx.first)
        if dx is not None:
            group.add_to_dx(dx, dys)
        group.add_to_bias(dys)
        return (None if dx is None else dx.total.view(ctx.shape)), None, None, None


def _find_input(
    ctx: Any, kept: tuple[Tensor, ...], like: Tensor
) -> tuple[Tensor, bool, NormedInput | None]:
    """Return (the input, whether dx may overwrite it, None).

    Where the kernels make the input from a norm's, return (the norm's input, False, the norm).
    """
    group = ctx.group
    if not kept:
        return like.new_empty(ctx.shape), True, None
    if ctx.remake is None:
        return kept[0], False, None
    if ctx.remake.normed is not None and group.reads_once:
        return kept[0], False, ctx.remake.normed(kept[1])
    return ctx.remake.make(*kept), group.reads_once, None


@dataclass(slots=True)
class _Handover:
    """Tensors that the two functions of a gated projection pass to each other outside autograd."""

    low_PTR: Tensor | None = None
    """The low-rank input, from _GatedInput to _GatedProduct in the forward pass."""
    dy_TN: Tensor | None = None
    """The output's gradient, from _GatedProduct to _GatedInput in the backward pass."""


class _GatedInput(torch.autograd.Function):
    """The gated activation that a projection reads, with all that the backward pass needs of both.

    The first function of project_gated(). Against GatedLinear before a projection it saves: the
    activation is neither read once more for its low-rank product nor made again, and its gradient
    is neither added to nor read once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor | None,
        anchor: Tensor | None,
        group: ProjectionGroup,
        gelu: bool,
        handover: _Handover,
    ) -> Tensor:
        kept = [flatten_rows(part) for part in (gate, up) if part is not None]
        gate_TK, up_TK = kept if len(kept) == 2 else split_halves(kept[0])
        # The kernel writes the activation here while it makes the low-rank product.
        x_TK = gate_TK.new_empty(gate_TK.shape)
        keys_S2, stack = group.draw.keys_S2, group.stacks[0]
        handover.low_PTR = low_PTR = lora_down(
            gate_TK, stack.a_PRK, keys_S2[stack.site :], stack.dropout, stack.scaling,
            gated=GatedInput(up_TK=up_TK, gelu=gelu), made_TK=x_TK,
        )  # fmt: skip
        ctx.save_for_backward(low_PTR, *kept)
        ctx.group, ctx.keys_S2, ctx.first = group, keys_S2, group.draw.first
        ctx.shape, ctx.gelu, ctx.handover = gate.shape, gelu, handover
        return x_TK.view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        low_PTR, *kept = ctx.saved_tensors
        gate_TK, up_TK = kept if len(kept) == 2 else split_halves(kept[0])
        dy_TN, ctx.handover.dy_TN = ctx.handover.dy_TN, None
        group, add = ctx.group, not ctx.first
        stack = group.stacks[0]
        dlow_PTR = lora_up_backward([dy_TN], low_PTR, stack.b_NR, stack.grad_b_NR, add=add)
        lora_down_backward(
            gate_TK, dy_TN @ group.projections[0].weight.dense(), dlow_PTR, stack.a_PRK,
            stack.grad_a_PRK, ctx.keys_S2[stack.site :], stack.dropout, stack.scaling,
            add=add, add_dx=True, made=GatedInput(up_TK=up_TK, gelu=ctx.gelu),
        )  # fmt: skip
        group.add_to_bias([dy_TN])
        grads = [part.view(ctx.shape) for part in kept]  # the kernel wrote them over gate and up
        return grads[0], grads[1] if len(grads) == 2 else None, None, None, None, None


class _GatedProduct(torch.autograd.Function):
    """The product with the gated activation, the second function of project_gated().

    It keeps no tensor. A layer that recomputes stops at the last tensor that was kept, and so never
    comes to this product where nothing behind it keeps one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProjectionGroup, handover: _Handover) -> Tensor:
        low_PTR, handover.low_PTR = handover.low_PTR, None
        assert low_PTR is not None
        ctx.shape, ctx.handover = x.shape, handover
        [out_TN] = group.multiply(x.reshape(-1, x.shape[-1]), [low_PTR])
        return out_TN.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        ctx.handover.dy_TN = dy.reshape(-1, dy.shape[-1])
        # The input's own gradient is made where gate and up are; this one is not read.
        return dy.new_empty(1).expand(ctx.shape), None, None


def _project_down(x_TK: Tensor, stack: AdapterStack, keys_S2: Tensor) -> Tensor:
    """Return low_PTR = scaling · dropout(x) @ A^T."""
    p = stack.dropout
    if stack.runs_kernels:
        return lora_down(x_TK, stack.a_PRK, keys_S2[stack.site :], p, stack.scaling)
    lows = [
        apply_dropout(x_TK, keys_S2[adapter.site], p) @ a_RK.T
        for adapter, a_RK in zip(stack.adapters, stack.a_PRK, strict=True)
    ]
    return torch.stack(lows) * stack.scaling


def _low_rank_backward(
    x_TK: Tensor,
    made: NormedInput | None,
    dx: RunningSum | None,
    dys: list[Tensor],
    low_PTR: Tensor,
    stack: AdapterStack,
    keys_S2: Tensor,
    *,
    first: bool,
) -> None:
    """Add to the adapters' gradients (`first`: write them), and add their share to dx."""
    if stack.runs_kernels:
        dlow_PTR = lora_up_backward(dys, low_PTR, stack.b_NR, stack.grad_b_NR, add=not first)
        lora_down_backward(
            x_TK, None if dx is None else dx.total, dlow_PTR, stack.a_PRK, stack.grad_a_PRK,
            keys_S2[stack.site :], stack.dropout, stack.scaling,
            add=not first, add_dx=dx is not None and dx.begin(), made=made,
        )  # fmt: skip
        return
    grads_NR = torch.split(stack.grad_b_NR, [dy_TN.shape[1] for dy_TN in dys])
    each = enumerate(zip(stack.adapters, dys, grads_NR, strict=True))
    for index, (adapter, dy_TN, grad_NR) in each:
        grad_NR.add_(dy_TN.T @ low_PTR[index])
        dlow_TR, key_2 = dy_TN @ adapter.b_NR, keys_S2[adapter.site]
        grad_RK = dlow_TR.T @ apply_dropout(x_TK, key_2, adapter.dropout)
        stack.grad_a_PRK[index].add_(grad_RK, alpha=adapter.scaling)
        if dx is not None:
            share = apply_dropout(dlow_TR @ stack.a_PRK[index], key_2, adapter.dropout)
            more = share * adapter.scaling
            dx.total.add_(more) if dx.begin() else dx.total.copy_(more)
