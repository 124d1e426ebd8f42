"""The rotary embedding's kernel against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import needs_triton, randn
from workbench.training.step.kernels.rotary import Rotary, rotary_reference

pytestmark = needs_triton


@pytest.mark.parametrize(("heads", "width"), [(3, 16), (11, 24)])
def test_rotary(heads: int, width: int) -> None:
    """More heads than a program turns, and halves whose width is no power of two, as in Phi 3."""
    x = randn(1, 13, heads, width).transpose(1, 2).requires_grad_()
    angle = randn(1, 13, width // 2, seed=1)
    cos, sin = (torch.cat([turn, turn], -1) for turn in (angle.cos(), angle.sin()))
    want = rotary_reference(x, cos, sin)
    dy = randn(1, 13, heads, width, seed=2).transpose(1, 2)
    (want_dx,) = torch.autograd.grad(want, x, dy, retain_graph=True)
    for in_place in (False, True):
        turned = x * 1  # strides as x has them
        got = Rotary.apply(turned, cos, sin, in_place)  # type: ignore[no-untyped-call]
        assert (got.data_ptr() == turned.data_ptr()) == in_place
        (dx,) = torch.autograd.grad(got, turned, dy)
        assert (dx.data_ptr() == dy.data_ptr()) == in_place
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)
