"""The norm's kernels against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import needs_triton, randn
from workbench.training.step.kernels.norm import RmsNorm, rms_norm_reference

pytestmark = needs_triton


@pytest.mark.parametrize("gemma", [False, True])
def test_rms_norm(gemma: bool) -> None:
    x, weight, dy = (
        randn(5, 9, 72).requires_grad_(),
        randn(72, seed=1),
        randn(5, 9, 72, seed=2),
    )
    want = rms_norm_reference(x, weight, 1e-5, gemma=gemma)
    (want_dx,) = torch.autograd.grad(want, x, dy)
    got, _ = RmsNorm.apply(x, weight, 1e-5, gemma)  # type: ignore[no-untyped-call]
    (dx,) = torch.autograd.grad(got, x, dy)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True], ids=["tokens first", "heads first"])
def test_rms_norm_of_heads_reads_them_where_they_lie(turned: bool) -> None:
    both, weight = randn(1, 5, 3 * 16 + 8).requires_grad_(), randn(16, seed=1)
    x = both[..., :48].view(1, 5, 3, 16)
    x = x.transpose(1, 2) if turned else x
    want = rms_norm_reference(x, weight, 1e-5, gemma=False)
    dy = randn(*want.shape, seed=2)
    (want_dx,) = torch.autograd.grad(want, both, dy)
    got, _ = RmsNorm.apply(x, weight, 1e-5, False)  # type: ignore[no-untyped-call]
    assert got.grad_fn.saved_tensors[0].data_ptr() == both.data_ptr()
    assert (got.transpose(1, 2) if turned else got).is_contiguous()
    (dx,) = torch.autograd.grad(got, both, dy)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx, want_dx, rtol=1e-4, atol=1e-5)


def test_gradients_of_heads_take_the_place_of_those_of_the_output() -> None:
    both, weight = randn(1, 5, 3 * 16 + 8).requires_grad_(), randn(16, seed=1)
    dy = randn(1, 5, 4, 16, seed=2)[:, :, :3]  # beside those of another tensor
    want = rms_norm_reference(both[..., :48].view(1, 5, 3, 16), weight, 1e-5, gemma=False)
    (want_dx,) = torch.autograd.grad(want, both, dy)
    x = both[..., :48].view(1, 5, 3, 16)
    got, _ = RmsNorm.apply(x, weight, 1e-5, False, True)  # type: ignore[no-untyped-call]
    (dx,) = torch.autograd.grad(got, x, dy)
    assert (dx.data_ptr(), dx.stride()) == (dy.data_ptr(), dy.stride())
    torch.testing.assert_close(dx, want_dx[..., :48].view_as(dx), rtol=1e-4, atol=1e-5)


def test_other_norms_in_four_dimensions_leave_the_gradient_that_a_sum_shares() -> None:
    """Gemma 4 adds such a norm to its tables' rows, and a sum gives both the same gradient."""
    x, weight = randn(1, 5, 3, 16).requires_grad_(), randn(16, seed=1)
    table, dy = randn(1, 5, 3, 16, seed=2).requires_grad_(), randn(1, 5, 3, 16, seed=3)
    got, _ = RmsNorm.apply(x, weight, 1e-5, False, False)  # type: ignore[no-untyped-call]
    given = dy.clone()
    dx, dtable = torch.autograd.grad(got + table, [x, table], given)
    (want,) = torch.autograd.grad(rms_norm_reference(x, weight, 1e-5, gemma=False), x, dy)
    torch.testing.assert_close(dx, want, rtol=1e-4, atol=1e-5)
    assert torch.equal(dtable, dy)
