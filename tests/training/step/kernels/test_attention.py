"""The kernels for short rows against dense attention."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.attention.implementations import IMPLEMENTATIONS
from workbench.training.step.kernels.lora_up import join_columns

pytestmark = needs_triton


@pytest.mark.parametrize(
    ("width", "heads", "groups"), [(16, 4, 2), (24, 3, 3), (72, 7, 1), (264, 4, 2)]
)
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_in_short_rows(
    softcap: float | None, window: int | None, width: int, heads: int, groups: int
) -> None:
    cu = torch.tensor([0, 70, 72, 150, 151, 151], device=DEVICE)
    widths = [heads * width, groups * width, groups * width]
    parts = randn(151, sum(widths)).requires_grad_()  # as they come out of one product
    q_THD, k_TGD, v_TGD = (
        x.view(151, -1, width)
        for x in parts.split(widths, dim=1)  # type: ignore[no-untyped-call]
    )
    grad = randn(151, heads, width, seed=1)
    scale = width**-0.5
    want = IMPLEMENTATIONS["dense"](
        q_THD, k_TGD, v_TGD, cu=cu, max_length=78, scale=scale, window=window, softcap=softcap
    )
    (want_grad,) = torch.autograd.grad(want, parts, grad, retain_graph=True)
    got = IMPLEMENTATIONS["triton"](
        q_THD, k_TGD, v_TGD, cu=cu, max_length=78, scale=scale, window=window, softcap=softcap
    )
    grads = torch.autograd.grad(got, [q_THD, k_TGD, v_TGD], grad)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    together = join_columns([grad.flatten(1) for grad in grads])
    assert together is not None  # so that the projections go backward in one product
    torch.testing.assert_close(together, want_grad, rtol=1e-4, atol=1e-5)
