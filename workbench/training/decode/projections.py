"""The linear layers of a decoder for inference: frozen weights and the adapters of several trials.

Projections that read one tensor are computed together. With 4-bit weights A lies below W, so that
one product gives both. The low-rank matrices of all adapters lie beside each other, and a row's
mask leaves it those of its own adapter: rows of several adapters share one pass, for a few columns
more (docs/decode.md#many-adapters).
"""

# T tokens, K inputs, N outputs of a group, C columns: ranks of all adapters and projections,
# M rows of weights and A together

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.training.step.lora.frozen_weight import FrozenWeight, Workspace
from workbench.training.step.lora.patch import SHARED_INPUTS, CannotFuse

AdapterNames = Sequence[str | None]
"""PEFT's name of the adapter with each index, None for the base alone."""


class InferenceGroup:
    """Projections that read one tensor; the first that is called computes the outputs of all."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        adapters: AdapterNames,
        dtype: torch.dtype,
        workspace: Workspace,
        *,
        dequantised: bool,
        few_rows: int = 0,
    ) -> None:
        """Raise CannotFuse for a layer or an adapter that this path does not know.

        So many rows or fewer are multiplied with 4-bit weights as they are.
        """
        self._few_rows = few_rows
        self.modules = list(modules.values())
        bases = [_base_layer(name, module) for name, module in modules.items()]
        self._weights = [FrozenWeight(base, dtype, workspace) for base in bases]
        self._widths = [weight.shape_NK[0] for weight in self._weights]
        self._biases = [None if one.bias is None else one.bias.data.to(dtype) for one in bases]
        self._workspace = workspace
        self._place_adapters(adapters, dtype, bases[0].weight.device)
        self._is_packed = all(weight.is_packed for weight in self._weights)
        self._kept: Tensor | None = None
        if self._is_packed:
            self._place_weights(dequantised=dequantised)
        self._outputs_for: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def project(self, index: int, x: Tensor, adapter_T: Tensor | None) -> Tensor:
        """Return the output of projection `index` for x; `adapter_T` has each token's adapter."""
        if self._outputs_for is not x or index not in self._outputs:
            x_TK = x.reshape(-1, x.shape[-1])
            few = self._kept is None and x_TK.shape[0] <= self._few_rows
            together = self._is_packed and not few
            multiply = self._multiply_together if together else self._multiply_apart
            self._outputs_for, self._outputs = x, dict(enumerate(multiply(x_TK, adapter_T)))
        out = self._outputs.pop(index)
        if not self._outputs:
            self._outputs_for = None
        return out.view(*x.shape[:-1], -1)

    def forget_outputs(self) -> None:
        """Let go what a pass that failed has computed and not collected."""
        self._outputs_for, self._outputs = None, {}

    # -- weights

    def _place_adapters(
        self, adapters: AdapterNames, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Put all A below each other, and all B, times their scaling, on the diagonal of blocks."""
        found = [
            (which, index, *_low_rank(module, name))
            for which, name in enumerate(adapters)
            for index, module in enumerate(self.modules)
            if name is not None and _has_adapter(module, name)
        ]
        ranks = [a.shape[0] for _, _, a, _, _ in found]
        columns = padded_columns(sum(ranks))
        like: dict[str, Any] = {"dtype": dtype, "device": device}
        self._a_CK = torch.zeros(columns, self._weights[0].shape_NK[1], **like)
        self._b_NC = torch.zeros(sum(self._widths), columns, **like)
        others = torch.ones(len(adapters), columns, dtype=torch.bool, device=device)
        at = 0
        for (which, index, a, b, scaling), rank in zip(found, ranks, strict=True):
            first, end = sum(self._widths[:index]), sum(self._widths[: index + 1])
            self._a_CK[at : at + rank] = a
            self._b_NC[first:end, at : at + rank] = b * scaling
            others[which, at : at + rank] = False
            at += rank
        self._others = others if len(adapters) > 1 else None
        """For each adapter the columns that are not its own; None where there is only one."""

    def _place_weights(self, *, dequantised: bool) -> None:
        """Dequantise the group's weights for good, or reserve room for them in the workspace."""
        shape = self._product_shape()
        if dequantised:
            self._kept = self._dequantise_into(self._a_CK.new_empty(shape))
        else:
            self._workspace.reserve(shape[0] * shape[1])

    def _product_shape(self) -> tuple[int, int]:
        """Return rows and columns of all weights of the group with A below them."""
        return sum(self._widths) + self._a_CK.shape[0], self._weights[0].shape_NK[1]

    def _dequantise_into(self, all_MK: Tensor) -> Tensor:
        """Write the weights and, below the last, A of all adapters; return them."""
        at = 0
        for weight in self._weights:
            weight.dequantise_into(all_MK[at : (at := at + weight.shape_NK[0])])
        all_MK[at:].copy_(self._a_CK)
        return all_MK

    # -- products

    def _multiply_together(self, x_TK: Tensor, adapter_T: Tensor | None) -> list[Tensor]:
        """Return the outputs by one product with all W, below which lies A, and one with B.

        The same product whether the weights are kept or unpacked here, and so the same digits.
        """
        w_MK = self._kept
        if w_MK is None:
            w_MK = self._dequantise_into(self._workspace.take(self._product_shape()))
        all_TM = x_TK @ w_MK.T
        out_TN, low_TC = torch.split(all_TM, [sum(self._widths), self._a_CK.shape[0]], dim=1)
        if low_TC.shape[1]:
            out_TN.addmm_(self._masked(low_TC, adapter_T), self._b_NC.T)
        return self._with_biases(list(torch.split(out_TN, self._widths, dim=1)))

    def _multiply_apart(self, x_TK: Tensor, adapter_T: Tensor | None) -> list[Tensor]:
        """Return the outputs with weights that lie where the model has them."""
        outs = [
            weight.multiply_packed(x_TK) if weight.is_packed else x_TK @ weight.dense().T
            for weight in self._weights
        ]
        if self._a_CK.shape[0]:
            low_TC = self._masked(x_TK @ self._a_CK.T, adapter_T)
            for out, b_NC in zip(outs, torch.split(self._b_NC, self._widths), strict=True):
                out.addmm_(low_TC, b_NC.T)
        return self._with_biases(outs)

    def _masked(self, low_TC: Tensor, adapter_T: Tensor | None) -> Tensor:
        """Return the low-rank inputs, zero where they are another adapter's.

        They are replaced and not multiplied: what overflows in one adapter is no row's of another.
        """
        if self._others is None or adapter_T is None:
            return low_TC
        return low_TC.masked_fill(self._others.index_select(0, adapter_T), 0.0)

    def _with_biases(self, outs: list[Tensor]) -> list[Tensor]:
        for bias_N, out in zip(self._biases, outs, strict=True):
            if bias_N is not None:
                out.add_(bias_N)
        return outs


def padded_columns(ranks: int) -> int:
    """Return the columns that so many ranks take: a multiple of 8, which tensor cores ask for."""
    return -(-ranks // 8) * 8


def find_groups(
    layers: nn.ModuleList,
    adapters: AdapterNames,
    dtype: torch.dtype,
    *,
    dequantised: bool,
    few_rows: int = 0,
    outside: Mapping[str, nn.Module] | None = None,
) -> list[InferenceGroup]:
    """Return the groups of a decoder's linear layers; `outside` are those outside its layers.

    Raise CannotFuse for what this path does not know; nothing is changed then.
    """
    workspace = Workspace(next(layers.parameters()).device, dtype)
    each = [modules for layer in layers for modules in _modules_by_input(layer)]
    each += [{name: module} for name, module in (outside or {}).items()]
    return [
        InferenceGroup(
            modules, adapters, dtype, workspace, dequantised=dequantised, few_rows=few_rows
        )
        for modules in each
    ]


def _modules_by_input(layer: nn.Module) -> Iterator[dict[str, nn.Module]]:
    for parent in layer.modules():
        if isinstance(parent, LoraLayer | nn.ModuleDict):
            continue
        linears = {name: one for name, one in parent.named_children() if _is_linear(one)}
        for names in (*SHARED_INPUTS, *([name] for name in linears)):
            together = {name: linears.pop(name) for name in names if name in linears}
            if together:
                yield together


def _is_linear(module: nn.Module) -> bool:
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    return isinstance(base, nn.Linear)


def _base_layer(name: str, module: nn.Module) -> Any:
    base: Any = module.get_base_layer() if isinstance(module, LoraLayer) else module
    if type(base).__name__ not in ("Linear", "Linear4bit"):
        raise CannotFuse(f"{name} is a {type(base).__name__}")
    if isinstance(module, LoraLayer) and module.merged:
        raise CannotFuse(f"{name} has an adapter merged into it")
    return base


def _has_adapter(module: nn.Module, name: str) -> bool:
    return isinstance(module, LoraLayer) and name in module.lora_A


def _low_rank(module: Any, name: str) -> tuple[Tensor, Tensor, float]:
    """Return (A, B, scaling) of one adapter of a layer."""
    if name in module.lora_variant or module.lora_bias.get(name):
        raise CannotFuse("DoRA and biases of lora_B are computed by PEFT")
    a, b = module.lora_A[name].weight.data, module.lora_B[name].weight.data
    return a, b, float(module.scaling[name])


__all__ = ["AdapterNames", "CannotFuse", "InferenceGroup", "find_groups"]
