"""A frozen weight as the matrix products need it, and the one workspace 4-bit ones unpack into.

Saves memory: at any moment one layer's weight is unpacked, in a buffer made once. NF4 and its
double-quantised scales: Dettmers et al. 2023, arXiv 2305.14314, §3.
"""

# N outputs, K inputs

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.training.step import triton_ops


class Workspace:
    """Grows to the largest weight asked for; what it gave before is overwritten by the next."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._buffer = torch.empty(0, device=device, dtype=dtype)

    def reserve(self, elements: int) -> None:
        """Before any capture: a buffer that moves would leave graphs writing to the old one."""
        if self._buffer.numel() < elements:
            self._buffer = self._buffer.new_empty(elements)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        count = torch.Size(shape).numel()
        self.reserve(count)
        return self._buffer[:count].view(shape)


class FrozenWeight:
    """W_NK of a linear layer, plain or NF4."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, workspace: Workspace) -> None:
        self.shape_NK = (linear.out_features, linear.in_features)
        self._dtype = dtype
        self._workspace = workspace
        self._weight: Any = linear.weight
        self._state: Any = getattr(linear.weight, "quant_state", None)
        self._resident = linear.weight.data.to(dtype) if self._state is None else None

    @property
    def packed(self) -> bool:
        return self._resident is None

    def stay_unpacked(self, place_NK: Tensor) -> None:
        """Of a packed weight: from now on its values are there, made once."""
        self.unpack_into(place_NK)
        self._resident = place_NK

    def unpack_into(self, out_NK: Tensor) -> None:
        """Of a packed weight."""
        made = self._unpack(out_NK)
        if made is not out_NK:
            out_NK.copy_(made)

    def dense(self) -> Tensor:
        """W_NK in the compute dtype. Of a packed weight: valid until the next call of any of them,
        so use it at once.
        """
        if self._resident is not None:
            return self._resident
        return self._unpack(self._workspace.take(self.shape_NK))

    def _unpack(self, out: Tensor) -> Tensor:
        packed, state = self._weight.data, self._state
        if triton_ops.usable(packed.device) and state.nested and state.quant_type == "nf4":
            return triton_ops.nf4_dequantize(packed, state, out)
        return _bitsandbytes_unpack(packed, state, self._dtype)


def _bitsandbytes_unpack(packed: Tensor, state: Any, dtype: torch.dtype) -> Tensor:
    scales = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
    result: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
        packed, scales, state.blocksize, state.quant_type, list(state.shape), dtype
    )
    return result
