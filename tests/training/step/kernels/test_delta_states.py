"""The states of the gated delta rule by their kernels, against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import needs_triton, randn
from workbench.training.step.kernels.delta_states import DeltaStates, delta_states_reference

pytestmark = needs_triton
H, C, K, V = 3, 16, 24, 40


@pytest.mark.parametrize("chunks", [2, 4])
def test_delta_states(chunks: int) -> None:
    """Widths that fill no block."""
    new = randn(H, chunks, C, V).requires_grad_()
    old = (randn(H, chunks, C, K, seed=1) / K).requires_grad_()
    k = (randn(H, chunks, C, K, seed=2) / 4).requires_grad_()
    kept = randn(H, chunks, seed=3).sigmoid().requires_grad_()
    given = [new, old, k, kept]
    want = delta_states_reference(new, old, k, kept)
    got = DeltaStates.apply(new, old, k, kept, False)  # type: ignore[no-untyped-call]
    grads = [randn(*one.shape, seed=4 + n) for n, one in enumerate(want)]
    wanted = torch.autograd.grad(want, given, grads, materialize_grads=True)
    found = torch.autograd.grad(got, given, grads, materialize_grads=True)
    for one, other in zip([*want, *wanted], [*got, *found], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
