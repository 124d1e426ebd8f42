"""Inverses of triangular matrices by their kernel, against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import needs_triton, randn
from workbench.training.step.kernels.triangular import (
    unit_lower_inverse,
    unit_lower_inverse_reference,
)

pytestmark = needs_triton


@pytest.mark.parametrize("size", [5, 64])
def test_unit_lower_inverse(size: int) -> None:
    """The kernel reads nothing on the diagonals and above, where these matrices have numbers."""
    lower = randn(2, 3, size, size) / 4
    got = unit_lower_inverse(lower)
    torch.testing.assert_close(got, unit_lower_inverse_reference(lower), rtol=1e-4, atol=1e-4)
    with_ones = lower.tril(-1) + torch.eye(size, device=lower.device)
    torch.testing.assert_close(
        with_ones @ got, torch.eye(size, device=lower.device).expand_as(got), rtol=0, atol=1e-3
    )


def test_rows_that_repeat_one_key() -> None:
    """All ones below the diagonal: the matrix's powers overflow, its inverse is two diagonals."""
    inverse = unit_lower_inverse(torch.ones_like(randn(1, 64, 64)))
    want = torch.eye(64, device=inverse.device) - torch.diag(torch.ones(63), -1).to(inverse)
    torch.testing.assert_close(inverse[0], want)
