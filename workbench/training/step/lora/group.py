"""Projections that read one tensor, and their products with the frozen weights."""

# T tokens, K inputs, N outputs, R rank, P adapters of a stack

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench.training.step.kernels.lora_up import join_columns
from workbench.training.step.lora.adapters import AdapterStack, MaskDraw, Projection
from workbench.training.step.lora.frozen_weight import Workspace


@dataclass(slots=True)
class RunningSum:
    """A tensor that terms are added to; the first term overwrites what was there."""

    total: Tensor
    _begun: bool = False

    def begin(self) -> bool:
        """Return whether a term was added before, and note that one is now."""
        begun, self._begun = self._begun, True
        return begun


@dataclass(slots=True)
class ProjectionGroup:
    """Projections that read one tensor; functions.py computes all of them in one function.

    The first of them that the model calls computes all outputs; the others collect theirs.
    """

    projections: list[Projection]
    stacks: list[AdapterStack]
    draw: MaskDraw
    anchor: nn.Parameter | None
    """Any trained parameter of the group, so that autograd visits it though its input is frozen."""
    workspace: Workspace
    dequantised_NK: Tensor | None = None
    """W of all projections below each other, where it is kept dequantised."""
    reads_once: bool = False
    """True if one kernel reads the input in the backward pass and may overwrite it."""
    outputs_for: Tensor | None = None
    """The input for which `outputs` were computed."""
    outputs: dict[int, Tensor] = field(default_factory=dict)
    """Outputs that were computed and not collected yet, by index of the projection."""

    @property
    def can_read_gated(self) -> bool:
        """True where project_gated() can take the place of project_input()."""
        return self.reads_once and len(self.projections) == 1

    def forget_outputs(self) -> None:
        """Let go what was computed and never collected, because a pass failed in between."""
        self.outputs_for, self.outputs = None, {}

    def multiply(self, x_TK: Tensor, lows: list[Tensor]) -> list[Tensor]:
        """Return x @ W^T + low @ B^T + bias of every projection.

        `lows` holds low_PTR for each stack. One product serves all where their W can lie together.
        The thin product is written first and the large one added to it, so that no output is read
        once more for it.
        """
        parts = self.projections
        # Outputs lie beside each other, so that one product may write all of them.
        all_TN = x_TK.new_empty(x_TK.shape[0], sum(self._widths()))
        outs = list(torch.split(all_TN, self._widths(), dim=1))
        started = [False] * len(parts)
        for stack, low_PTR in zip(self.stacks, lows, strict=True):
            each = zip(stack.members, stack.adapters, low_PTR, strict=True)
            for index, adapter, low_TR in each:
                torch.mm(low_TR, adapter.b_NR.T, out=outs[index])
                started[index] = True
        # One beta holds for all outputs: with 0, what the new memory holds is ignored.
        if self._has_joint_weight() and len(set(started)) == 1:
            all_TN.addmm_(x_TK, self._joint_weight().T, beta=int(started[0]))
        else:
            for part, out_TN, begun in zip(parts, outs, started, strict=True):
                out_TN.addmm_(x_TK, part.weight.dense().T, beta=int(begun))
        for part, out_TN in zip(parts, outs, strict=True):
            if part.bias_N is not None:
                out_TN.add_(part.bias_N)
        return outs

    def add_to_dx(self, dx: RunningSum, dys: list[Tensor]) -> None:
        """Add dy @ W of every projection to dx, as one product where the dy lie together, too."""
        all_TN = join_columns(dys) if self._has_joint_weight() else None
        if all_TN is not None:
            dx.total.addmm_(all_TN, self._joint_weight(), beta=int(dx.begin()))
            return
        for part, dy_TN in zip(self.projections, dys, strict=True):
            dx.total.addmm_(dy_TN, part.weight.dense(), beta=int(dx.begin()))

    def add_to_bias(self, dys: list[Tensor]) -> None:
        """Add the gradients of trained biases to the flat buffer."""
        for part, dy_TN in zip(self.projections, dys, strict=True):
            if part.grad_bias_N is not None:
                part.grad_bias_N.add_(dy_TN.sum(0, dtype=part.grad_bias_N.dtype))

    def _widths(self) -> list[int]:
        return [part.weight.shape_NK[0] for part in self.projections]

    def _has_joint_weight(self) -> bool:
        return self.dequantised_NK is not None or is_dequantised_together(self.projections)

    def _joint_weight(self) -> Tensor:
        """Return W of all projections below each other, dequantised here unless it is kept so."""
        if self.dequantised_NK is not None:
            return self.dequantised_NK
        widths = self._widths()
        all_NK = self.workspace.take((sum(widths), self.projections[0].weight.shape_NK[1]))
        for part, w_NK in zip(self.projections, torch.split(all_NK, widths), strict=True):
            part.weight.dequantise_into(w_NK)
        return all_NK


def is_dequantised_together(projections: list[Projection]) -> bool:
    """Return whether a group's packed weights share one dequantised matrix in the workspace.

    True for q, k and v; for gate and up, which are large, the workspace would be twice as large.
    """
    return len(projections) > 2 and all(part.weight.is_packed for part in projections)
