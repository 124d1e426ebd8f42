"""The chunked head against torch's cross entropy over whole logits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workbench.footprint.micro_steps import chunk_rows
from workbench.training.step.head import Head
from workbench.training.step.rows import IGNORE


def test_chunks_of_the_head_are_about_equal() -> None:
    llama = 128_256 * 2  # at most 512 rows at once
    assert [chunk_rows(llama, rows) for rows in (64, 512, 576, 960, 1088)] == [
        64,
        512,
        320,
        512,
        384,
    ]
    assert chunk_rows(2**28, 3) == 1
    assert chunk_rows(2**21 // 5 * 32, 40) == 10


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_head_in_chunks_is_cross_entropy(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.footprint.micro_steps.CHUNK_BYTES", 3 * 31 * 4)
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 6, requires_grad=True), torch.randn(31, 6)
    targets = torch.tensor([3, IGNORE, 30, 0, 1, IGNORE, 7, 8, 9, 2, 2])
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    want = nn.functional.cross_entropy(logits, targets, reduction="sum") / 20
    (want_grad,) = torch.autograd.grad(want, hidden)
    head = Head(weight_VD=weight, bias_V=None, softcap=softcap)
    at = torch.tensor([0, 2, 3, 4, 6, 7, 8, 9, 10, 5, 5])  # the last two fill up
    for at_L, targets_L in ((None, targets), (at, targets[at])):
        loss = head.loss(hidden, at_L, targets_L, torch.tensor(20), torch.tensor(8.0))
        (grad,) = torch.autograd.grad(loss, hidden)
        torch.testing.assert_close(loss, want.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(grad, 8 * want_grad, rtol=1e-5, atol=1e-6)
