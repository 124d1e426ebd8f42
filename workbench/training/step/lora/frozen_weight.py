"""A frozen weight as the matrix products need it, and the one workspace 4-bit weights share.

At any moment one layer's weight is dequantised, in a buffer that is made once. NF4 and its
double-quantised scales: Dettmers et al. 2023, arXiv 2305.14314, §3.
"""

# N outputs, K inputs

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.nf4 import is_dequantizable, nf4_dequantize


class Workspace:
    """A buffer as large as the largest weight asked for; each use overwrites the one before."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._buffer = torch.empty(0, device=device, dtype=dtype)

    def reserve(self, elements: int) -> None:
        """Grow the buffer to so many elements at least.

        All reservations are made before any capture: a buffer that moves later would leave graphs
        writing to the old one.
        """
        if self._buffer.numel() < elements:
            self._buffer = self._buffer.new_empty(elements)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return the beginning of the buffer in that shape; what was taken before is lost."""
        count = torch.Size(shape).numel()
        self.reserve(count)
        return self._buffer[:count].view(shape)


class FrozenWeight:
    """The weight W_NK of a linear layer, in 16 bits or quantised by bitsandbytes."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, workspace: Workspace) -> None:
        """`dtype` is the compute dtype, in which dense() returns the weight."""
        self.shape_NK = (linear.out_features, linear.in_features)
        self._dtype = dtype
        self._workspace = workspace
        self._weight: Any = linear.weight
        self._state: Any = getattr(linear.weight, "quant_state", None)
        self._dense = linear.weight.data.to(dtype) if self._state is None else None

    @property
    def is_packed(self) -> bool:
        """True where only the 4-bit values are held."""
        return self._dense is None

    def keep_dequantised(self, place_NK: Tensor) -> None:
        """Dequantise a packed weight into `place_NK` once, and use that from now on."""
        self.dequantise_into(place_NK)
        self._dense = place_NK

    def dequantise_into(self, out_NK: Tensor) -> None:
        """Write the values of a packed weight to `out_NK`."""
        made = self._dequantise(out_NK)
        if made is not out_NK:
            out_NK.copy_(made)

    @property
    def packed(self) -> tuple[Tensor, Any]:
        """The 4-bit values as bitsandbytes holds them, and their QuantState."""
        return self._weight.data, self._state

    def dense(self) -> Tensor:
        """Return W_NK in the compute dtype.

        A packed weight is dequantised into the workspace: it is valid until the next such call for
        any weight, so it has to be used at once.
        """
        if self._dense is not None:
            return self._dense
        return self._dequantise(self._workspace.take(self.shape_NK))

    def _dequantise(self, out: Tensor) -> Tensor:
        """Return the weight: in `out` by our kernel, in new memory by bitsandbytes."""
        packed, state = self._weight.data, self._state
        if triton_support.is_usable(packed.device) and is_dequantizable(state):
            return nf4_dequantize(packed, state, out)
        return dequantise_by_library(packed, state, self._dtype)


def dequantise_by_library(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight by bitsandbytes' operations, which run wherever it does.

    It is asked for as one long row: on a CPU bitsandbytes 0.50 begins a block of scales with each
    row, where they run on (findings/bitsandbytes-cpu-misreads-narrow-rows.sh).
    """
    size = [math.prod(state.shape)]
    values: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        packed, scales_of(state), state.blocksize, state.quant_type, size, dtype
    )
    return values.view(torch.Size(state.shape))


def scales_of(state: Any) -> Tensor:
    """Return the scales of a weight's blocks in fp32, one for each block in the weights' order."""
    scales: Tensor = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        # Double quantisation: the scales are 8-bit themselves, around an offset.
        scales = (dequantize_blockwise(scales, state.state2) + state.offset).float()
    return scales
