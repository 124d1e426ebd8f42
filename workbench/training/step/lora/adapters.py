"""Fused projections as data: frozen weight, adapter, and the dropout keys they draw with."""

# T tokens, K inputs, N outputs, R rank, S sites, P adapters of a stack

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from workbench.footprint.peak.attention_path import WIDEST_RANK
from workbench.training.step.kernels import triton_support
from workbench.training.step.lora.frozen_weight import FrozenWeight


@dataclass(slots=True)
class MaskDraw:
    """The dropout keys of the micro-step that is running; one for all groups of a model."""

    keys_S2: Tensor
    """Two 32-bit keys for each site, that is, for each adapted projection of the model."""
    first: bool = True
    """The micro-step is the first of its optimizer batch: kernels then write gradients instead of
    adding to them, which saves reading the buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """The adapter of one projection: W x + scaling · B A dropout(x) (arXiv 2106.09685)."""

    a: nn.Parameter
    b: nn.Parameter
    b_NR: Tensor
    """B in the compute dtype."""
    scaling: float
    """alpha / rank, or alpha / sqrt(rank) where rank-stabilised (arXiv 2312.03732)."""
    dropout: float
    site: int
    """The index of this projection's mask among the S masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterStack:
    """Adapters of one group that are alike, so that one launch serves them all.

    Its tensors are views of their A and B in the compute dtype, and of the gradients in fp32.
    """

    members: tuple[int, ...]
    """Indices of the projections in the group."""
    a_PRK: Tensor
    grad_a_PRK: Tensor
    b_NR: Tensor
    """Their B below each other: N counts the outputs of all of them."""
    grad_b_NR: Tensor
    adapters: tuple[LoraAdapter, ...]

    @property
    def runs_kernels(self) -> bool:
        """True where the Triton kernels compute it; else torch's operations do.

        The two draw different dropout masks (kernels/masks.py), so this never changes in a run.
        """
        narrow = self.a_PRK.shape[1] <= WIDEST_RANK
        return narrow and triton_support.is_usable(self.a_PRK.device)

    @property
    def site(self) -> int:
        """The site of the first adapter, whose two keys the kernels use for all."""
        return self.adapters[0].site

    @property
    def scaling(self) -> float:
        """The scaling of each of the adapters."""
        return self.adapters[0].scaling

    @property
    def dropout(self) -> float:
        """The dropout of each of the adapters."""
        return self.adapters[0].dropout


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """One linear layer of the model, with or without an adapter."""

    name: str
    module: nn.Module
    """PEFT's wrapper of the layer, or the layer itself."""
    weight: FrozenWeight
    bias_N: Tensor | None
    grad_bias_N: Tensor | None
    """The bias's gradient in the flat buffer, where the bias is trained."""
    adapter: LoraAdapter | None
