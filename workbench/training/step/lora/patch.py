"""The fused projections on a model: finds them, groups them, and replaces their forward.

PEFT's modules, parameters and state dict stay; only `forward` of the modules is replaced, and only
while they train. restore() undoes it.
"""

# N outputs, K inputs, R rank, P adapters of a stack

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.training.step.lora.adapters import (
    AdapterStack,
    LoraAdapter,
    MaskDraw,
    Projection,
)
from workbench.training.step.lora.frozen_weight import FrozenWeight, Workspace
from workbench.training.step.lora.functions import project_input
from workbench.training.step.lora.group import ProjectionGroup, is_dequantised_together
from workbench.training.step.optimizer.flat_parameters import FlatParameters

SHARED_INPUTS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"),
)
"""Names of projections that read the same tensor in every family of the allow-list."""


class CannotFuse(ValueError):
    """A layer that the fused path does not know; the message is the reason."""


def adjacent_order(names: list[str]) -> list[int]:
    """Return an order of parameters in which the A of projections that share an input are adjacent.

    Their B follow, adjacent as well. In the flat buffer such a group is one matrix, which one
    launch reads. `names` are PEFT's names of the parameters; the order is of their indices.
    """
    seen: dict[tuple[str, object], int] = {}

    def place(index: int) -> tuple[int, bool, int]:
        owner, _, rest = names[index].partition(".lora_")
        parent, _, last = owner.rpartition(".")
        shared: object = next((group for group in SHARED_INPUTS if last in group), last)
        key = (parent, shared) if rest else (names[index], None)
        return seen.setdefault(key, len(seen)), not rest.startswith("A"), index

    return sorted(range(len(names)), key=place)


class FusedProjections:
    """The fused forward of every linear layer of the decoder's layers, until restore()."""

    def __init__(
        self,
        layers: nn.ModuleList,
        flat: FlatParameters,
        dtype: torch.dtype,
        *,
        dequantised_layers: int = 0,
        outside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Replace the forwards. Raise CannotFuse, with nothing changed, where a layer is unknown.

        `outside` are linear layers of the decoder that lie outside its layers, by name.

        The 4-bit weights of the last `dequantised_layers` layers are kept in the compute dtype: the
        same values, made once, for 2 bytes a weight.
        """
        device = flat.values.device
        self.draw = MaskDraw(torch.zeros(1, 2, dtype=torch.int64, device=device))
        self.owned: set[int] = set()
        """Parameters whose gradients these functions write, by id."""
        self._flat, self._dtype, self._dequantised = flat, dtype, False
        self._workspace = Workspace(device, dtype)
        self.sites = 0
        self.groups: list[ProjectionGroup] = []
        for index, layer in enumerate(layers):
            self._dequantised = index >= len(layers) - dequantised_layers
            self.groups += self._groups_of(layer)
        self._dequantised = False
        self.groups += [self._group({name: one}) for name, one in (outside or {}).items()]
        self._replaced: list[tuple[nn.Module, Any]] = []
        for group in self.groups:
            for index, part in enumerate(group.projections):
                self._replace(group, index, part.module)

    def group_of(self, module: nn.Module) -> ProjectionGroup | None:
        """Return the group that consists of this module alone, or None."""
        for group in self.groups:
            if [part.module for part in group.projections] == [module]:
                return group
        return None

    def forget_outputs(self) -> None:
        """Let go what a pass that failed has computed and not collected."""
        for group in self.groups:
            group.forget_outputs()

    def restore(self) -> None:
        """Give the modules back the forward that they had."""
        for module, before in self._replaced:
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before
        self._replaced = []

    def _replace(self, group: ProjectionGroup, index: int, module: nn.Module) -> None:
        original: Callable[..., Tensor] = module.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if not module.training:  # scoring and generating go PEFT's own way
                return original(x, *args, **kwargs)
            return project_input(group, index, x)

        self._replaced.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    # -- groups

    def _groups_of(self, layer: nn.Module) -> Iterator[ProjectionGroup]:
        for parent in layer.modules():
            linears = {
                name: child
                for name, child in parent.named_children()
                if _is_linear(child) and not isinstance(parent, LoraLayer | nn.ModuleDict)
            }
            for names in (*SHARED_INPUTS, *([name] for name in linears)):
                together = {name: linears.pop(name) for name in names if name in linears}
                if together:
                    yield self._group(together)

    def _group(self, modules: dict[str, nn.Module]) -> ProjectionGroup:
        parts = [self._projection(name, module) for name, module in modules.items()]
        trained = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        stacks = self._stacks(parts)
        return ProjectionGroup(
            projections=parts,
            stacks=stacks,
            draw=self.draw,
            anchor=trained[0] if trained else None,
            workspace=self._workspace,
            dequantised_NK=self._place_weights(parts),
            # Torch's operations read the input more than once.
            reads_once=len(stacks) == 1 and stacks[0].runs_kernels,
        )

    def _place_weights(self, parts: list[Projection]) -> Tensor | None:
        """Dequantise a group's 4-bit weights for good, or reserve room for them in the workspace.

        Return W of all projections below each other where all of them are kept dequantised.
        """
        packed = [part.weight for part in parts if part.weight.is_packed]
        if not packed:
            return None
        sizes = [weight.shape_NK[0] for weight in packed]
        width = packed[0].shape_NK[1]
        if self._dequantised:
            all_NK = self._flat.values.new_empty((sum(sizes), width), dtype=self._dtype)
            for weight, place_NK in zip(packed, torch.split(all_NK, sizes), strict=True):
                weight.keep_dequantised(place_NK)
            return all_NK if len(packed) == len(parts) else None
        self._workspace.reserve((sum if is_dequantised_together(parts) else max)(sizes) * width)
        return None

    def _stacks(self, parts: list[Projection]) -> list[AdapterStack]:
        """Return one stack where the group's adapters are alike and lie together, else one each."""
        members = [(at, part.adapter) for at, part in enumerate(parts) if part.adapter is not None]
        alike = {(one.a.shape, one.scaling, one.dropout) for _, one in members}
        whole = self._stack(members) if len(alike) == 1 else None
        if whole is not None:
            return [whole]
        return [stack for member in members if (stack := self._stack([member]))]

    def _stack(self, members: list[tuple[int, LoraAdapter]]) -> AdapterStack | None:
        a = self._flat.joined([one.a for _, one in members])
        b = self._flat.joined([one.b for _, one in members])
        if a is None or b is None:
            return None
        sizes = (len(members), *members[0][1].a.shape)
        return AdapterStack(
            members=tuple(index for index, _ in members),
            a_PRK=a[0].view(sizes),
            grad_a_PRK=a[1].view(sizes),
            b_NR=b[0],
            grad_b_NR=b[1],
            adapters=tuple(one for _, one in members),
        )

    # -- one projection

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
            adapter=self._adapter(name, module) if isinstance(module, LoraLayer) else None,
        )

    def _bias(self, bias: nn.Parameter) -> Tensor:
        return self._flat.value(bias) if bias.requires_grad else bias.data.to(self._dtype)

    def _grad(self, param: nn.Parameter) -> Tensor:
        return self._flat.grad(self._own(param))

    def _own(self, param: nn.Parameter) -> nn.Parameter:
        self.owned.add(id(param))
        return param

    def _adapter(self, name: str, layer: Any) -> LoraAdapter:
        active = layer.active_adapters
        if len(active) != 1 or layer.merged or layer.disable_adapters:
            raise CannotFuse(f"{name} has not exactly one adapter switched on")
        adapter = active[0]
        # PEFT keeps DoRA and its kind as variants of a layer.
        if adapter in layer.lora_variant or layer.lora_bias.get(adapter):
            raise CannotFuse(f"{name}: DoRA and biases of lora_B take the plain path")
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        if not (a.requires_grad and b.requires_grad):
            raise CannotFuse(f"{name}: the adapter is frozen")
        drop = layer.lora_dropout[adapter]
        # Sites are numbered in the order of the layers, so a seed gives the same masks again.
        self.sites += 1
        return LoraAdapter(
            a=self._own(a),
            b=self._own(b),
            b_NR=self._flat.value(b),
            scaling=float(layer.scaling[adapter]),
            dropout=float(drop.p) if isinstance(drop, nn.Dropout) else 0.0,
            site=self.sites - 1,
        )


def linear_children(parent: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers that are children of a module, with an adapter or without."""
    return {name: child for name, child in parent.named_children() if _is_linear(child)}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (
        isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), nn.Linear)
    )
