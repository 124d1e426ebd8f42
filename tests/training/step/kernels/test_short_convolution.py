"""The convolution of gated delta layers by its kernels, against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels.short_convolution import (
    ShortConvolution,
    short_convolution_reference,
)

pytestmark = needs_triton


@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("lengths", [[70], [1, 2, 40, 3, 31]], ids=str)
def test_short_convolution(lengths: list[int], taps: int) -> None:
    """More tokens than a block of the kernels has, and rows shorter than the filter."""
    row_T = torch.repeat_interleave(torch.tensor(lengths)).to(DEVICE)
    x_TC, filter_CW = randn(len(row_T), 150).requires_grad_(), randn(150, taps, seed=1)
    grad_TC = randn(len(row_T), 150, seed=2)
    want_out = short_convolution_reference(x_TC, filter_CW, row_T)
    (want,) = torch.autograd.grad(want_out, x_TC, grad_TC)
    out = ShortConvolution.apply(x_TC, filter_CW, row_T)  # type: ignore[no-untyped-call]
    (got,) = torch.autograd.grad(out, x_TC, grad_TC)
    torch.testing.assert_close(out, want_out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
