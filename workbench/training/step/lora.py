"""LoRA projections as one autograd function per group that shares an input.

Saves, against PEFT over bitsandbytes: the input is kept once a group instead of once a projection
and once more per dropout, or not at all (remake.py); no mask is kept; a weight is unpacked once a
pass, into a shared workspace; the low-rank product is added in place instead of through three
temporaries; gradients go straight into the flat buffer. PEFT's modules and state dict stay, only
their `forward` is replaced. LoRA: Hu et al. 2022, arXiv 2106.09685; the hand-written backward is
Unsloth's idea (github.com/unslothai/unsloth), rank-stabilised scale arXiv 2312.03732 (PEFT's
`scaling` has it).
"""

# T tokens, K inputs, N outputs, R rank, S sites, P adapters of a stack

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.footprint.attention_path import WIDEST_RANK
from workbench.training.step import triton_ops
from workbench.training.step.frozen import FrozenWeight, Workspace
from workbench.training.step.masks import dropped
from workbench.training.step.optimizer import FlatParameters
from workbench.training.step.remake import Remake, remake_of

SHARING = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of projections that read the same tensor in every family of the allow-list."""


def together(names: list[str]) -> list[int]:
    """An order of parameters in which the A's of projections that share an input lie together."""
    seen: dict[tuple[str, object], int] = {}

    def place(index: int) -> tuple[int, bool, int]:
        owner, _, rest = names[index].partition(".lora_")
        parent, _, last = owner.rpartition(".")
        shared: object = next((group for group in SHARING if last in group), last)
        key = (parent, shared) if rest else (names[index], None)
        return seen.setdefault(key, len(seen)), not rest.startswith("A"), index

    return sorted(range(len(names)), key=place)


class CannotFuse(ValueError):
    """A layer this path does not know; the reason is the message."""


@dataclass(slots=True)
class Draw:
    """The dropout keys of the micro-step that is running."""

    keys_S2: Tensor
    first: bool = True
    """Of its optimizer batch: kernels then write gradients instead of adding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """One adapter."""

    a: nn.Parameter
    b: nn.Parameter
    b_NR: Tensor
    """In the compute dtype."""
    scaling: float
    dropout: float
    site: int
    """Which of the S masks is this projection's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Adapters of one group that are alike, so that one launch serves them all: views of their
    A and B in the compute dtype, and of the gradients in fp32.
    """

    members: tuple[int, ...]
    """Which projections of the group."""
    a_PRK: Tensor
    grad_a_PRK: Tensor
    b_NR: Tensor
    """Below each other."""
    grad_b_NR: Tensor
    lows: tuple[LowRank, ...]

    @property
    def by_kernels(self) -> bool:
        """Else by torch's operations, which draw other masks."""
        narrow = self.a_PRK.shape[1] <= WIDEST_RANK
        return narrow and triton_ops.usable(self.a_PRK.device)

    @property
    def site(self) -> int:
        return self.lows[0].site

    @property
    def scaling(self) -> float:
        return self.lows[0].scaling

    @property
    def dropout(self) -> float:
        return self.lows[0].dropout


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
    stacks: list[Stack]
    draw: Draw
    anchor: nn.Parameter | None
    """Any trained parameter of the group, so that autograd visits it though its input is frozen."""
    workspace: Workspace
    resident_NK: Tensor | None = None
    """W of all projections below each other, where they stay unpacked."""
    reads_once: bool = False
    """Going backward, one kernel reads the input, and may write its gradient in its place."""
    _made_for: Tensor | None = None
    _made: dict[int, Tensor] = field(default_factory=dict)

    def forward(self, index: int, x: Tensor) -> Tensor:
        if self._made_for is not x or index not in self._made:
            outs = _Projections.apply(x, self.anchor, self, remake_of(x))  # type: ignore[no-untyped-call]
            self._made_for, self._made = x, dict(enumerate(outs))
        out = self._made.pop(index)
        if not self._made:
            self._made_for = None
        return out

    @property
    def reads_gated(self) -> bool:
        """gated() can take the place of forward()."""
        return self.reads_once and len(self.projections) == 1

    def gated(self, gate: Tensor, up: Tensor | None, *, gelu: bool) -> Tensor:
        """Of act(gate) · up; without `up`, they are the halves of `gate`."""
        out: Tensor = _GatedProjection.apply(gate, up, self.anchor, self, gelu)  # type: ignore[no-untyped-call]
        return out

    def forget(self) -> None:
        """What was computed and never collected, because a pass failed in between."""
        self._made_for, self._made = None, {}

    def products(self, x_TK: Tensor, lows: list[Tensor]) -> list[Tensor]:
        """x @ W^T + low @ B^T of every projection, as one product where their W can lie together.

        The thin product is written first and the large one added to it, so that no output is read
        once more for it.
        """
        parts = self.projections
        all_TN = x_TK.new_empty(x_TK.shape[0], sum(self._outputs()))
        outs = list(torch.split(all_TN, self._outputs(), dim=1))
        started = [False] * len(parts)
        for stack, low_PTR in zip(self.stacks, lows, strict=True):
            for index, low, low_TR in zip(stack.members, stack.lows, low_PTR, strict=True):
                torch.mm(low_TR, low.b_NR.T, out=outs[index])
                started[index] = True
        if self._lie_together() and len(set(started)) == 1:
            all_TN.addmm_(x_TK, self._whole().T, beta=int(started[0]))
        else:
            for part, out_TN, begun in zip(parts, outs, started, strict=True):
                out_TN.addmm_(x_TK, part.weight.dense().T, beta=int(begun))
        for part, out_TN in zip(parts, outs, strict=True):
            if part.bias_N is not None:
                out_TN.add_(part.bias_N)
        return outs

    def add_to_dx(self, dx: _Sum, dys: list[Tensor]) -> None:
        """dx (+)= dy @ W of every projection, as one product where dy lie together as well."""
        all_TN = triton_ops.beside(dys) if self._lie_together() else None
        if all_TN is not None:
            dx.total.addmm_(all_TN, self._whole(), beta=int(dx.begin()))
            return
        for part, dy_TN in zip(self.projections, dys, strict=True):
            dx.total.addmm_(dy_TN, part.weight.dense(), beta=int(dx.begin()))

    def add_to_bias(self, dys: list[Tensor]) -> None:
        for part, dy_TN in zip(self.projections, dys, strict=True):
            if part.grad_bias_N is not None:
                part.grad_bias_N.add_(dy_TN.sum(0, dtype=part.grad_bias_N.dtype))

    def _outputs(self) -> list[int]:
        return [part.weight.shape_NK[0] for part in self.projections]

    def _lie_together(self) -> bool:
        return self.resident_NK is not None or unpack_together(self.projections)

    def _whole(self) -> Tensor:
        """W of all projections below each other."""
        if self.resident_NK is not None:
            return self.resident_NK
        outputs = self._outputs()
        all_NK = self.workspace.take((sum(outputs), self.projections[0].weight.shape_NK[1]))
        for part, w_NK in zip(self.projections, torch.split(all_NK, outputs), strict=True):
            part.weight.unpack_into(w_NK)
        return all_NK


def unpack_together(projections: list[Projection]) -> bool:
    """q, k and v; two large ones would take a workspace twice as large."""
    return len(projections) > 2 and all(part.weight.packed for part in projections)


class _Projections(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, anchor: Tensor | None, group: Group, remake: Remake | None
    ) -> tuple[Tensor, ...]:
        x_TK = x.reshape(-1, x.shape[-1])
        keys_S2 = group.draw.keys_S2
        lows = [_down(x_TK, stack, keys_S2) for stack in group.stacks]
        outs = group.products(x_TK, lows)
        kept: tuple[Tensor, ...] = ()
        if group.stacks:  # else nothing of x is asked for again
            kept = remake.kept if remake is not None else (x,)
        ctx.save_for_backward(*kept, *lows)
        ctx.group, ctx.keys_S2, ctx.first = group, keys_S2, group.draw.first
        ctx.shape, ctx.kept = x.shape, len(kept)
        ctx.remake = remake and replace(remake, kept=())
        return tuple(out.view(*x.shape[:-1], -1) for out in outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        group, saved = ctx.group, ctx.saved_tensors
        kept, lows = saved[: ctx.kept], saved[ctx.kept :]
        made = None
        if not kept:
            x, free = grads[0].new_empty(ctx.shape), True
        elif ctx.remake is None:
            x, free = kept[0], False
        elif ctx.remake.normed is not None and group.reads_once:
            x, free, made = kept[0], False, ctx.remake.normed(kept[1])
        else:
            x, free = ctx.remake.make(*kept), group.reads_once
        x_TK = x.reshape(-1, ctx.shape[-1])
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _Sum(x_TK if free else torch.empty_like(x_TK))
        dys = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
        for stack, low_PTR in zip(group.stacks, lows, strict=True):  # before the large products
            ours = [dys[index] for index in stack.members]
            _low_rank_backward(x_TK, made, dx, ours, low_PTR, stack, ctx.keys_S2, first=ctx.first)
        if dx is not None:
            group.add_to_dx(dx, dys)
        group.add_to_bias(dys)
        return (None if dx is None else dx.total.view(ctx.shape)), None, None, None


class _GatedProjection(torch.autograd.Function):
    """What reads a gated activation, and that activation. Saves, against GatedLinear before it:
    the activation is not read for its low-rank product, nor made again, and its gradient is neither
    added to nor read once more.
    """

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor | None, anchor: Tensor | None, group: Group, gelu: bool
    ) -> Tensor:
        kept = [triton_ops.flat(part) for part in (gate, up) if part is not None]
        gate_TK, up_TK = kept if len(kept) == 2 else triton_ops.halves(kept[0])
        x_TK = gate_TK.new_empty(gate_TK.shape)
        keys_S2, stack = group.draw.keys_S2, group.stacks[0]
        low_PTR = triton_ops.lora_down(
            gate_TK, stack.a_PRK, keys_S2[stack.site :], stack.dropout, stack.scaling,
            gated=triton_ops.Gated(up_TK=up_TK, gelu=gelu), made_TK=x_TK,
        )  # fmt: skip
        ctx.save_for_backward(low_PTR, *kept)
        ctx.group, ctx.keys_S2, ctx.first = group, keys_S2, group.draw.first
        ctx.shape, ctx.gelu = gate.shape, gelu
        return group.products(x_TK, [low_PTR])[0].view(*gate.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        low_PTR, *kept = ctx.saved_tensors
        gate_TK, up_TK = kept if len(kept) == 2 else triton_ops.halves(kept[0])
        group, add, dy_TN = ctx.group, not ctx.first, dy.reshape(-1, dy.shape[-1])
        stack = group.stacks[0]
        dlow_PTR = triton_ops.up_backward([dy_TN], low_PTR, stack.b_NR, stack.grad_b_NR, add=add)
        triton_ops.lora_backward(
            gate_TK, dy_TN @ group.projections[0].weight.dense(), dlow_PTR, stack.a_PRK,
            stack.grad_a_PRK, ctx.keys_S2[stack.site :], stack.dropout, stack.scaling,
            add=add, add_dx=True, made=triton_ops.Gated(up_TK=up_TK, gelu=ctx.gelu),
        )  # fmt: skip
        group.add_to_bias([dy_TN])
        grads = [part.view(ctx.shape) for part in kept]  # gate and up became them
        return grads[0], grads[1] if len(grads) == 2 else None, None, None, None


@dataclass(slots=True)
class _Sum:
    """A tensor that terms are added to; the first overwrites what was there."""

    total: Tensor
    _begun: bool = False

    def begin(self) -> bool:
        """True when something was added before."""
        begun, self._begun = self._begun, True
        return begun


def _down(x_TK: Tensor, stack: Stack, keys_S2: Tensor) -> Tensor:
    """low_PTR, with the adapter's scaling in it."""
    p = stack.dropout
    if stack.by_kernels:
        return triton_ops.lora_down(x_TK, stack.a_PRK, keys_S2[stack.site :], p, stack.scaling)
    lows = [
        dropped(x_TK, keys_S2[low.site], p) @ a_RK.T
        for low, a_RK in zip(stack.lows, stack.a_PRK, strict=True)
    ]
    return torch.stack(lows) * stack.scaling


def _low_rank_backward(
    x_TK: Tensor,
    made: triton_ops.Normed | None,
    dx: _Sum | None,
    dys: list[Tensor],
    low_PTR: Tensor,
    stack: Stack,
    keys_S2: Tensor,
    *,
    first: bool,
) -> None:
    """Adds to the adapters' gradients (`first`: writes them), and their share to dx."""
    if stack.by_kernels:
        dlow_PTR = triton_ops.up_backward(dys, low_PTR, stack.b_NR, stack.grad_b_NR, add=not first)
        triton_ops.lora_backward(
            x_TK, None if dx is None else dx.total, dlow_PTR, stack.a_PRK, stack.grad_a_PRK,
            keys_S2[stack.site :], stack.dropout, stack.scaling,
            add=not first, add_dx=dx is not None and dx.begin(), made=made,
        )  # fmt: skip
        return
    grads_NR = torch.split(stack.grad_b_NR, [dy_TN.shape[1] for dy_TN in dys])
    for index, (low, dy_TN, grad_NR) in enumerate(zip(stack.lows, dys, grads_NR, strict=True)):
        grad_NR.add_(dy_TN.T @ low_PTR[index])
        dlow_TR, key_2 = dy_TN @ low.b_NR, keys_S2[low.site]
        grad_RK = dlow_TR.T @ dropped(x_TK, key_2, low.dropout)
        stack.grad_a_PRK[index].add_(grad_RK, alpha=low.scaling)
        if dx is not None:
            more = dropped(dlow_TR @ stack.a_PRK[index], key_2, low.dropout) * low.scaling
            dx.total.add_(more) if dx.begin() else dx.total.copy_(more)


class FusedProjections:
    """Replaces the forward of every linear layer of the decoder's layers, until restore()."""

    def __init__(
        self,
        layers: nn.ModuleList,
        flat: FlatParameters,
        dtype: torch.dtype,
        *,
        resident: int = 0,
    ) -> None:
        """Raises CannotFuse, having changed nothing. `resident`: so many layers' 4-bit weights
        stay unpacked in the compute dtype (the same values, made once).
        """
        device = flat.values.device
        self.draw = Draw(torch.zeros(1, 2, dtype=torch.int64, device=device))
        self.owned: set[int] = set()
        """Parameters whose gradients these functions add, by id."""
        self._flat, self._dtype, self._unpacked = flat, dtype, False
        self._workspace = Workspace(device, dtype)
        self.sites = 0
        self.groups: list[Group] = []
        for index, layer in enumerate(layers):
            self._unpacked = index >= len(layers) - resident
            self.groups += self._groups_of(layer)
        self._were: list[tuple[nn.Module, Any]] = []
        for group in self.groups:
            for index, part in enumerate(group.projections):
                self._replace(group, index, part.module)

    def group_of(self, module: nn.Module) -> Group | None:
        """The one that computes this module and no other."""
        for group in self.groups:
            if [part.module for part in group.projections] == [module]:
                return group
        return None

    def forget(self) -> None:
        for group in self.groups:
            group.forget()

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
        stacks = self._stacks(parts)
        return Group(
            projections=parts,
            stacks=stacks,
            draw=self.draw,
            anchor=trained[0] if trained else None,
            workspace=self._workspace,
            resident_NK=self._place(parts),
            # Torch's form reads it more than once.
            reads_once=len(stacks) == 1 and stacks[0].by_kernels,
        )

    def _place(self, parts: list[Projection]) -> Tensor | None:
        """Where 4-bit weights stay unpacked, if they do; else the workspace has room for them."""
        packed = [part.weight for part in parts if part.weight.packed]
        if not packed:
            return None
        sizes = [weight.shape_NK[0] for weight in packed]
        width = packed[0].shape_NK[1]
        if self._unpacked:
            all_NK = self._flat.values.new_empty((sum(sizes), width), dtype=self._dtype)
            for weight, place_NK in zip(packed, torch.split(all_NK, sizes), strict=True):
                weight.stay_unpacked(place_NK)
            return all_NK if len(packed) == len(parts) else None
        self._workspace.reserve((sum if unpack_together(parts) else max)(sizes) * width)
        return None

    def _stacks(self, parts: list[Projection]) -> list[Stack]:
        """One for all adapters of the group when they are alike and lie together, else one each."""
        members = [(index, part.low) for index, part in enumerate(parts) if part.low is not None]
        alike = {(low.a.shape, low.scaling, low.dropout) for _, low in members}
        whole = self._stack(members) if len(alike) == 1 else None
        if whole is not None:
            return [whole]
        return [stack for member in members if (stack := self._stack([member]))]

    def _stack(self, members: list[tuple[int, LowRank]]) -> Stack | None:
        a = self._flat.joined([low.a for _, low in members])
        b = self._flat.joined([low.b for _, low in members])
        if a is None or b is None:
            return None
        sizes = (len(members), *members[0][1].a.shape)
        return Stack(
            members=tuple(index for index, _ in members),
            a_PRK=a[0].view(sizes),
            grad_a_PRK=a[1].view(sizes),
            b_NR=b[0],
            grad_b_NR=b[1],
            lows=tuple(low for _, low in members),
        )

    def _projection(self, name: str, module: nn.Module) -> Projection:
        base: Any = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if type(base).__name__ not in ("Linear", "Linear4bit"):
            raise CannotFuse(f"{name} is a {type(base).__name__}")
        bias = base.bias
        return Projection(
            name=name,
            module=module,
            weight=FrozenWeight(base, self._dtype, self._workspace),
            bias_N=None if bias is None else self._bias(bias),
            grad_bias_N=self._grad(bias) if bias is not None and bias.requires_grad else None,
            low=self._low_rank(name, module) if isinstance(module, LoraLayer) else None,
        )

    def _bias(self, bias: nn.Parameter) -> Tensor:
        return self._flat.value(bias) if bias.requires_grad else bias.data.to(self._dtype)

    def _grad(self, param: nn.Parameter) -> Tensor:
        return self._flat.grad(self._owned(param))

    def _owned(self, param: nn.Parameter) -> nn.Parameter:
        self.owned.add(id(param))
        return param

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
            a=self._owned(a),
            b=self._owned(b),
            b_NR=self._flat.value(b),
            scaling=float(layer.scaling[adapter]),
            dropout=float(drop.p) if isinstance(drop, nn.Dropout) else 0.0,
            site=self.sites - 1,
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear)
    )
