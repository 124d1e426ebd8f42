"""The linear layers of a decoder for inference: frozen weights and the adapters of several trials.

Projections that read one tensor are computed together. With 4-bit weights A lies below W, so that
one product gives both. The low-rank matrices of all adapters lie beside each other, and a row's
mask leaves it those of its own adapter: rows of several adapters share one pass, for a few columns
more (docs/decode.md#many-adapters).
"""

# T tokens, K inputs, N outputs of a group, C columns: ranks of all adapters and projections,
# M rows of weights and A together

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from workbench.footprint.peak.scoring_bytes import PACKED_LANES, padded_columns
from workbench.training.decode.kernels.nf4_product import Nf4Product, is_multipliable
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
        for_steps: bool = True,
    ) -> None:
        """Raise CannotFuse for a layer or an adapter that this path does not know.

        `for_steps`: A and B are laid together once, and not for each product again; and 4-bit
        weights that are not dequantised are multiplied with a few tokens as they are.
        """
        self.modules = list(modules.values())
        bases = [_base_layer(name, module) for name, module in modules.items()]
        self._weights = [FrozenWeight(base, dtype, workspace) for base in bases]
        self._widths = [weight.shape_NK[0] for weight in self._weights]
        self._biases = [None if one.bias is None else one.bias.data.to(dtype) for one in bases]
        self._workspace = workspace
        self._like: dict[str, Any] = {"dtype": dtype, "device": bases[0].weight.device}
        self._place_adapters(adapters)
        self._kept_low_rank = self._lay_low_rank() if for_steps else None
        self._is_packed = all(weight.is_packed for weight in self._weights)
        self._kept: Tensor | None = None
        self._packed: Nf4Product | None = None
        self._bias_N: Tensor | None = None
        if self._is_packed:
            self._place_weights(dequantised=dequantised)
            packed, states = zip(*(weight.packed for weight in self._weights), strict=True)
            if for_steps and self._kept is None and is_multipliable(packed, states, dtype):
                self._packed = Nf4Product(packed, states, dtype)
                self._bias_N = _joint_bias(self._biases, self._widths)
        else:  # those in 4 bits are unpacked one after another
            for weight in self._weights:
                workspace.reserve(math.prod(weight.shape_NK) if weight.is_packed else 0)
        self._outputs_for: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def project(self, index: int, x: Tensor, adapter_T: Tensor | None) -> Tensor:
        """Return the output of projection `index` for x; `adapter_T` has each token's adapter."""
        if self._outputs_for is not x or index not in self._outputs:
            x_TK = x.reshape(-1, x.shape[-1])
            if self._packed is not None and x_TK.shape[0] <= PACKED_LANES:
                multiply = self._multiply_packed
            else:
                multiply = self._multiply_together if self._is_packed else self._multiply_apart
            self._outputs_for, self._outputs = x, dict(enumerate(multiply(x_TK, adapter_T)))
        out = self._outputs.pop(index)
        if not self._outputs:
            self._outputs_for = None
        return out.view(*x.shape[:-1], -1)

    def forget_outputs(self) -> None:
        """Let go what a pass that failed has computed and not collected."""
        self._outputs_for, self._outputs = None, {}

    # -- weights

    def _place_adapters(self, adapters: AdapterNames) -> None:
        """Give the ranks of each adapter and projection columns of their own."""
        self._low_rank = [
            (which, index, *_low_rank(module, name))
            for which, name in enumerate(adapters)
            for index, module in enumerate(self.modules)
            if name is not None and _has_adapter(module, name)
        ]
        self._columns = padded_columns(sum(a.shape[0] for _, _, a, _, _ in self._low_rank))
        others = torch.ones(len(adapters), self._columns, dtype=torch.bool)
        at = 0
        for which, _, a, _, _ in self._low_rank:
            others[which, at : (at := at + a.shape[0])] = False
        self._others = others.to(self._like["device"]) if len(adapters) > 1 else None
        """For each adapter the columns that are not its own; None where there is only one."""

    def _lay_low_rank(self) -> tuple[Tensor, Tensor]:
        """Return (a_CK, b_NC): all A below each other, and all B, times their scaling, on the
        diagonal of blocks.
        """
        a_CK = torch.zeros(self._columns, self._weights[0].shape_NK[1], **self._like)
        b_NC = torch.zeros(sum(self._widths), self._columns, **self._like)
        at = 0
        for _, index, a, b, scaling in self._low_rank:
            first, end = sum(self._widths[:index]), sum(self._widths[: index + 1])
            columns = slice(at, at := at + a.shape[0])
            a_CK[columns] = a
            b_NC[first:end, columns] = b * scaling
        return a_CK, b_NC

    def _place_weights(self, *, dequantised: bool) -> None:
        """Dequantise the group's weights for good, or reserve room for them in the workspace."""
        rows, width = sum(self._widths) + self._columns, self._weights[0].shape_NK[1]
        self._product_shape = (rows, width)
        """Rows and columns of all weights of the group with A below them."""
        if dequantised:
            into_MK = torch.empty(self._product_shape, **self._like)
            self._kept = self._dequantise_into(into_MK, self._a_and_b()[0])
        else:
            self._workspace.reserve(rows * width)

    def _a_and_b(self) -> tuple[Tensor, Tensor]:
        """Return (a_CK, b_NC), laid together here unless they are kept."""
        return self._lay_low_rank() if self._kept_low_rank is None else self._kept_low_rank

    def _dequantise_into(self, all_MK: Tensor, a_CK: Tensor) -> Tensor:
        """Write the weights and, below the last, A of all adapters; return them."""
        at = 0
        for weight in self._weights:
            weight.dequantise_into(all_MK[at : (at := at + weight.shape_NK[0])])
        all_MK[at:].copy_(a_CK)
        return all_MK

    # -- products

    def _multiply_together(self, x_TK: Tensor, adapter_T: Tensor | None) -> list[Tensor]:
        """Return the outputs by one product with all W, below which lies A, and one with B.

        The same product whether the weights are kept or unpacked here, and so the same digits.
        """
        a_CK, b_NC = self._a_and_b()
        w_MK = self._kept
        if w_MK is None:
            w_MK = self._dequantise_into(self._workspace.take(self._product_shape), a_CK)
        all_TM = x_TK @ w_MK.T
        out_TN, low_TC = torch.split(all_TM, [sum(self._widths), self._columns], dim=1)
        if self._columns:
            out_TN.addmm_(self._masked(low_TC, adapter_T), b_NC.T)
        return self._with_biases(list(torch.split(out_TN, self._widths, dim=1)))

    def _multiply_packed(self, x_TK: Tensor, adapter_T: Tensor | None) -> list[Tensor]:
        """Return the outputs of a few tokens with 4-bit weights as they are."""
        assert self._packed is not None
        out_TN = self._packed.multiply(
            x_TK, *self._a_and_b(), self._bias_N, self._others, adapter_T
        )
        return list(torch.split(out_TN, self._widths, dim=1))

    def _multiply_apart(self, x_TK: Tensor, adapter_T: Tensor | None) -> list[Tensor]:
        """Return the outputs with weights that lie where the model has them."""
        outs = [x_TK @ weight.dense().T for weight in self._weights]
        if self._columns:
            a_CK, b_NC = self._a_and_b()
            low_TC = self._masked(x_TK @ a_CK.T, adapter_T)
            for out, own_NC in zip(outs, torch.split(b_NC, self._widths), strict=True):
                out.addmm_(low_TC, own_NC.T)
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


def find_groups(
    layers: nn.ModuleList,
    adapters: AdapterNames,
    dtype: torch.dtype,
    *,
    dequantised: bool,
    for_steps: bool = True,
    outside: Mapping[str, nn.Module] | None = None,
) -> list[InferenceGroup]:
    """Return the groups of a decoder's linear layers; `outside` are those outside its layers.

    Raise CannotFuse for what this path does not know; nothing is changed then.
    """
    workspace = Workspace(next(layers.parameters()).device, dtype)
    each = [modules for layer in layers for modules in _modules_by_input(layer)]
    each += [{name: module} for name, module in (outside or {}).items()]
    how: dict[str, Any] = {"dequantised": dequantised, "for_steps": for_steps}
    return [InferenceGroup(modules, adapters, dtype, workspace, **how) for modules in each]


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


def _joint_bias(biases: Sequence[Tensor | None], widths: Sequence[int]) -> Tensor | None:
    """Return all biases behind each other, zeros where there is none; None where none has one."""
    found = next((bias for bias in biases if bias is not None), None)
    if found is None:
        return None
    each = zip(biases, widths, strict=True)
    return torch.cat([found.new_zeros(n) if bias is None else bias for bias, n in each])


def _has_adapter(module: nn.Module, name: str) -> bool:
    return isinstance(module, LoraLayer) and name in module.lora_A


def _low_rank(module: Any, name: str) -> tuple[Tensor, Tensor, float]:
    """Return (A, B, scaling) of one adapter of a layer."""
    if name in module.lora_variant or module.lora_bias.get(name):
        raise CannotFuse("DoRA and biases of lora_B are computed by PEFT")
    a, b = module.lora_A[name].weight.data, module.lora_B[name].weight.data
    return a, b, float(module.scaling[name])


__all__ = ["AdapterNames", "CannotFuse", "InferenceGroup", "find_groups"]
