"""The gated activations' kernels against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels.gated_linear import GatedLinear, gated_linear_reference

pytestmark = needs_triton


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("kind", ["apart", "chunked", "one"])
@pytest.mark.parametrize("width", [80, 2100])
def test_gated_linear(width: int, kind: str, gelu: bool) -> None:
    """A wider row is computed in several blocks."""
    both = randn(1, 11, 2 * width).requires_grad_()
    gate, up = both.chunk(2, -1)
    if kind == "apart":
        gate, up = gate.contiguous(), up.contiguous()
    dy = randn(1, 11, width, seed=2)
    want_out = gated_linear_reference(gate, up, gelu=gelu)
    (want,) = torch.autograd.grad(want_out, both, dy, retain_graph=True)
    pair = (both * 1, None) if kind == "one" else (gate, up)
    out = GatedLinear.apply(*pair, gelu)  # type: ignore[no-untyped-call]
    (got,) = torch.autograd.grad(out, both, dy)  # overwrites gate and up
    torch.testing.assert_close(out, want_out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gelu", [False, True])
def test_gates_far_from_zero(gelu: bool) -> None:
    """There exp overflows or vanishes; the product is up times the gate, or 0."""
    far = [-1e9, -200.0, -89.0, -60.0, -20.0, 20.0, 60.0, 89.0, 200.0]
    gate = torch.tensor([far], device=DEVICE).requires_grad_()
    up = torch.full_like(gate, 0.5).requires_grad_()
    want_out = gated_linear_reference(gate, up, gelu=gelu)
    want = torch.autograd.grad(want_out.sum(), (gate, up), retain_graph=True)
    out = GatedLinear.apply(gate * 1, up * 1, gelu)  # type: ignore[no-untyped-call]
    got = torch.autograd.grad(out.sum(), (gate, up))
    torch.testing.assert_close(out, want_out, rtol=1e-5, atol=1e-30)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-30)
