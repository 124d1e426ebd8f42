"""LoRA projections as one autograd function per group that shares an input.

Saves, against PEFT over bitsandbytes: the input is kept once a group instead of once a projection
and once more per dropout; no mask is kept; a weight is unpacked once a pass, into a shared
workspace; the low-rank product is added in place instead of through three temporaries; gradients
go straight into the flat buffer. PEFT's modules and state dict stay, only their `forward` is
replaced. LoRA: Hu et al. 2022, arXiv 2106.09685; the hand-written backward is Unsloth's idea
(github.com/unslothai/unsloth), rank-stabilised scale arXiv 2312.03732 (PEFT's `scaling` has it).
"""

# T tokens, K inputs, N outputs, R rank, S sites

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.training.step import triton_ops
from workbench.training.step.frozen import FrozenWeight, Workspace
from workbench.training.step.masks import dropped
from workbench.training.step.optimizer import FlatParameters

SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of projections that read the same tensor in every family of the allow-list."""


class CannotFuse(ValueError):
    """A layer this path does not know; the reason is the message."""


@dataclass(slots=True)
class Draw:
    """The dropout keys of the micro-step that is running."""

    keys_S2: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """One adapter: compute-dtype views of A and B, fp32 views of their gradients."""

    a_RK: Tensor
    b_NR: Tensor
    grad_a_RK: Tensor
    grad_b_NR: Tensor
    scaling: float
    dropout: float
    site: int
    """Which of the S masks is this projection's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    name: str
    module: nn.Module
    weight: FrozenWeight
    bias_N: Tensor | None
    grad_bias_N: Tensor | None
    low: LowRank | None


@dataclass(slots=True)
class Group:
    """Projections that read one tensor. The first to be called computes all; the others collect."""

    projections: list[Projection]
    draw: Draw
    anchor: nn.Parameter | None
    """Any trained parameter of the group, so that autograd visits it though its input is frozen."""
    _made_for: Tensor | None = None
    _made: dict[int, Tensor] = field(default_factory=dict)

    def forward(self, index: int, x: Tensor) -> Tensor:
        if self._made_for is not x or index not in self._made:
            outs = _Projections.apply(x, self.anchor, self)  # type: ignore[no-untyped-call]
            self._made_for, self._made = x, dict(enumerate(outs))
        out = self._made.pop(index)
        if not self._made:
            self._made_for = None
        return out


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, group: Group) -> tuple[Tensor, ...]:
        x_TK = x.reshape(-1, x.shape[-1])
        keys_S2, outs, lows = group.draw.keys_S2, [], []
        for part in group.projections:
            y_TN = nn.functional.linear(x_TK, part.weight.dense(), part.bias_N)
            if (low := part.low) is not None:
                low_TR = _dropped(x_TK, keys_S2, low) @ low.a_RK.T
                y_TN.addmm_(low_TR, low.b_NR.T, alpha=low.scaling)
                lows.append(low_TR)
            outs.append(y_TN.view(*x.shape[:-1], -1))
        ctx.save_for_backward(x, *lows)
        ctx.group, ctx.keys_S2 = group, keys_S2
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        x, *lows = ctx.saved_tensors
        x_TK = x.reshape(-1, x.shape[-1])
        dx_TK: Tensor | None = None
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        if ctx.needs_input_grad[0]:
            for part, dy_TN in zip(ctx.group.projections, dys, strict=True):
                w_NK = part.weight.dense()
                dx_TK = dy_TN @ w_NK if dx_TK is None else dx_TK.addmm_(dy_TN, w_NK)
        at = iter(lows)
        for part, dy_TN in zip(ctx.group.projections, dys, strict=True):
            if part.grad_bias_N is not None:
                part.grad_bias_N.add_(dy_TN.sum(0, dtype=part.grad_bias_N.dtype))
            if part.low is not None:
                _low_rank_backward(x_TK, dx_TK, dy_TN, next(at), part.low, ctx.keys_S2)
        return (None if dx_TK is None else dx_TK.view(x.shape)), None, None


def _dropped(x_TK: Tensor, keys_S2: Tensor, low: LowRank) -> Tensor:
    if low.dropout == 0.0:
        return x_TK
    if triton_ops.usable(x_TK.device):
        return triton_ops.dropout(x_TK, keys_S2[low.site], low.dropout)
    return dropped(x_TK, keys_S2[low.site], low.dropout)


def _low_rank_backward(
    x_TK: Tensor, dx_TK: Tensor | None, dy_TN: Tensor, low_TR: Tensor, low: LowRank, keys_S2: Tensor
) -> None:
    """Adds to the adapter's gradients, and its share to dx in place."""
    dlow_TR = torch.empty_like(low_TR).addmm_(dy_TN, low.b_NR, beta=0, alpha=low.scaling)
    _add_product(low.grad_b_NR, dy_TN.T, low_TR, low.scaling)
    key_2 = keys_S2[low.site]
    if triton_ops.usable(x_TK.device):
        low.grad_a_RK.add_(
            triton_ops.lora_backward(x_TK, dx_TK, dlow_TR, low.a_RK, key_2, low.dropout)
        )
        return
    _add_product(low.grad_a_RK, dlow_TR.T, dropped(x_TK, key_2, low.dropout), 1.0)
    if dx_TK is not None:
        dx_TK += dropped(dlow_TR @ low.a_RK, key_2, low.dropout)


def _add_product(total: Tensor, left: Tensor, right: Tensor, alpha: float) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right, alpha=alpha)
    else:
        total.add_(left @ right, alpha=alpha)


class FusedProjections:
    """Replaces the forward of every linear layer of the decoder's layers, until restore()."""

    def __init__(
        self,
        layers: nn.ModuleList,
        flat: FlatParameters,
        dtype: torch.dtype,
        *,
        unpacked: bool = False,
    ) -> None:
        """Raises CannotFuse, having changed nothing. `unpacked`: keep 4-bit weights in 16 bits."""
        device = flat.values.device
        self.draw = Draw(torch.zeros(1, 2, dtype=torch.int64, device=device))
        self.owned: set[int] = set()
        """Parameters whose gradients these functions add, by id."""
        self._flat, self._dtype, self._unpacked = flat, dtype, unpacked
        self._workspace = Workspace(device, dtype)
        self.sites = 0
        self.groups = [group for layer in layers for group in self._groups_of(layer)]
        self._were: list[tuple[nn.Module, Any]] = []
        for group in self.groups:
            for index, part in enumerate(group.projections):
                self._replace(group, index, part.module)

    def restore(self) -> None:
        for module, was in self._were:
            del module.__dict__["forward"]
            if was is not None:
                module.__dict__["forward"] = was
        self._were = []

    def _replace(self, group: Group, index: int, module: nn.Module) -> None:
        plain: Callable[..., Tensor] = module.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not module.training:  # scoring and generating go PEFT's own way
                return plain(x, *args, **kwargs)
            return group.forward(index, x)

        self._were.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _groups_of(self, layer: nn.Module) -> Iterator[Group]:
        for parent in layer.modules():
            linears = {
                name: child
                for name, child in parent.named_children()
                if _is_linear(child) and not isinstance(parent, LoraLayer | nn.ModuleDict)
            }
            for names in (*SHARING, *([name] for name in linears)):
                together = {name: linears.pop(name) for name in names if name in linears}
                if together:
                    yield self._group(together)

    def _group(self, modules: dict[str, nn.Module]) -> Group:
        parts = [self._projection(name, module) for name, module in modules.items()]
        trained = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        return Group(parts, self.draw, trained[0] if trained else None)

    def _projection(self, name: str, module: nn.Module) -> Projection:
        base: Any = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if type(base).__name__ not in ("Linear", "Linear4bit"):
            raise CannotFuse(f"{name} is a {type(base).__name__}")
        bias = base.bias
        return Projection(
            name=name,
            module=module,
            weight=FrozenWeight(base, self._dtype, self._workspace, unpacked=self._unpacked),
            bias_N=None if bias is None else self._bias(bias),
            grad_bias_N=self._grad(bias) if bias is not None and bias.requires_grad else None,
            low=self._low_rank(name, module) if isinstance(module, LoraLayer) else None,
        )

    def _bias(self, bias: nn.Parameter) -> Tensor:
        return self._flat.value(bias) if bias.requires_grad else bias.data.to(self._dtype)

    def _grad(self, param: nn.Parameter) -> Tensor:
        self.owned.add(id(param))
        return self._flat.grad(param)

    def _low_rank(self, name: str, layer: Any) -> LowRank:
        active = layer.active_adapters
        if len(active) != 1 or layer.merged or layer.disable_adapters:
            raise CannotFuse(f"{name} has not exactly one adapter switched on")
        adapter = active[0]
        if adapter in layer.lora_variant or layer.lora_bias.get(adapter):
            raise CannotFuse(f"{name}: DoRA and biases of lora_B take the plain path")
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if not (a.requires_grad and b.requires_grad):
            raise CannotFuse(f"{name}: the adapter is frozen")
        drop = layer.lora_dropout[adapter]
        self.sites += 1
        return LowRank(
            a_RK=self._flat.value(a),
            b_NR=self._flat.value(b),
            grad_a_RK=self._grad(a),
            grad_b_NR=self._grad(b),
            scaling=float(layer.scaling[adapter]),
            dropout=float(drop.p) if isinstance(drop, nn.Dropout) else 0.0,
            site=self.sites - 1,
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear)
    )
