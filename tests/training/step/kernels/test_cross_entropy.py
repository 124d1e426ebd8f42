"""The cross-entropy kernel against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels.cross_entropy import cross_entropy, cross_entropy_reference

pytestmark = needs_triton


@pytest.mark.parametrize("vocabulary", [200, 20_001])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy(softcap: float | None, vocabulary: int) -> None:
    """A larger vocabulary is read in several blocks."""
    logits, targets = (
        randn(6, vocabulary) * 4,
        torch.tensor([3, -100, vocabulary - 1, 0, -100, vocabulary // 2], device=DEVICE),
    )
    factor = torch.tensor(0.25, device=DEVICE)
    want_nll, want_grad = cross_entropy_reference(logits, targets, factor, softcap, -100)
    nll = cross_entropy(logits, targets, factor, softcap, -100)
    torch.testing.assert_close(nll, want_nll, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, want_grad, rtol=1e-4, atol=1e-6)
