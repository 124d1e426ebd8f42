"""The device on which kernels are tested, and tensors on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workbench.training.step.kernels import triton_support

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_triton = pytest.mark.skipif(
    not triton_support.is_usable(DEVICE), reason="Triton needs a CUDA card or TRITON_INTERPRET=1"
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers on the device, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)
