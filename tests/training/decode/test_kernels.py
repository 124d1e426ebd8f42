"""The kernels of generation against torch; on a card, or on a CPU under TRITON_INTERPRET=1."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.step.kernels.device import DEVICE, needs_triton, randn
from workbench.training.decode.kernels.cached_attention import (
    cached_attention,
    cached_attention_reference,
    store_keys_values,
)

pytestmark = needs_triton


@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize(("width", "heads", "groups"), [(16, 6, 2), (24, 3, 3), (512, 20, 1)])
def test_a_lane_attends_to_its_own_positions(
    window: int | None, softcap: float | None, width: int, heads: int, groups: int
) -> None:
    slots, positions = 5, 90
    keys, values = (randn(slots, groups, positions, width, seed=seed) for seed in (1, 2))
    q_BHD = randn(3, heads, width, seed=3)
    slots_B = torch.tensor([4, 0, 2], device=DEVICE)
    positions_B = torch.tensor([89, 0, 33], device=DEVICE)
    how: Any = {"scale": 0.3, "window": window, "softcap": softcap}
    got = cached_attention(q_BHD, keys, values, slots_B, positions_B, **how)
    want = cached_attention_reference(q_BHD, keys, values, slots_B, positions_B, **how)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_keys_and_values_go_to_their_slots_and_positions() -> None:
    keys, values = torch.zeros(3, 2, 7, 12, device=DEVICE), torch.zeros(3, 2, 7, 12, device=DEVICE)
    k_TGD, v_TGD = randn(4, 3, 2, 12)[:, 1], randn(4, 2, 12, seed=1)
    slots_T = torch.tensor([2, 2, 0, 1], device=DEVICE)
    positions_T = torch.tensor([0, 1, 6, 3], device=DEVICE)
    store_keys_values(k_TGD, v_TGD, keys, values, slots_T, positions_T)
    assert torch.equal(keys[slots_T, :, positions_T], k_TGD)
    assert torch.equal(values[slots_T, :, positions_T], v_TGD)
    assert int((keys != 0).any(-1).sum()) == 8
