"""The cross-entropy kernel against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels.cross_entropy import cross_entropy, cross_entropy_reference

pytestmark = needs_triton


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy(softcap: float | None) -> None:
    logits, targets = (
        randn(6, 200) * 4,
        torch.tensor([3, -100, 199, 0, -100, 7], device=DEVICE),
    )
    factor = torch.tensor(0.25, device=DEVICE)
    want_nll, want_grad = cross_entropy_reference(logits, targets, factor, softcap, -100)
    nll = cross_entropy(logits, targets, factor, softcap, -100)
    torch.testing.assert_close(nll, want_nll, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, want_grad, rtol=1e-4, atol=1e-6)
