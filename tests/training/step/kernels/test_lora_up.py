"""The up-projection's backward kernel against torch."""

from __future__ import annotations

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.step.kernels import triton_support
from workbench.training.step.kernels.lora_up import lora_up_backward, lora_up_backward_reference

pytestmark = needs_triton


@pytest.mark.parametrize("rank", [5, 40])
@pytest.mark.parametrize(
    "sizes", [(96,), (9000,), (128, 64), (512, 256, 256), (96, 40), (256, 128, 32, 40)]
)
@pytest.mark.parametrize("lie", ["beside", "apart", "turned"])
def test_backward_of_b(lie: str, sizes: tuple[int, ...], rank: int) -> None:
    dys, low_PTR = (
        randn(150, sum(sizes)).split(sizes, 1),  # type: ignore[no-untyped-call]
        randn(len(sizes), 150, rank, seed=1),
    )
    if lie == "apart":
        dys = tuple(dy_TN.contiguous() for dy_TN in dys)
    elif lie == "turned":
        dys = tuple(dy_TN.T.contiguous().T for dy_TN in dys)
    b_NR = randn(sum(sizes), rank, seed=2)
    want_grad, want_dlow = lora_up_backward_reference(list(dys), low_PTR, b_NR)
    grad = torch.full((sum(sizes), rank), float("nan"), device=DEVICE)
    for times, add in ((1, False), (2, True)):
        dlow = lora_up_backward(list(dys), low_PTR, b_NR, grad, add=add)
        torch.testing.assert_close(dlow, want_dlow, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(grad, times * want_grad, rtol=1e-4, atol=2e-4)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a card has no room for large tiles in fp32")
@pytest.mark.parametrize("rank", [5, 40])
def test_backward_of_b_in_large_tiles(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of cards in 16 bits: a block of 256 outputs lies in one projection."""
    monkeypatch.setattr(triton_support, "has_room_for_large_tiles", lambda _: True)
    test_backward_of_b("beside", (512, 256, 256), rank)
