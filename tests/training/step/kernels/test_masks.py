"""Dropout masks: fair, independent of each other, and the same for the same keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from workbench.training.step.kernels.masks import hashed_mask, keep_mask, mask_keys


@pytest.mark.parametrize("draw", [keep_mask, hashed_mask])
def test_masks_are_fair_and_independent_and_repeat(draw: Any) -> None:
    seed, counter, sites = torch.tensor(42), torch.tensor(9), torch.arange(3)
    keys_S2 = mask_keys(seed, counter, sites)
    masks = torch.stack([draw((256, 512), key, 0.25).float() for key in keys_S2])
    assert (masks.mean((1, 2)) - 0.75).abs().max() < 0.005
    assert (masks.mean(1) - 0.75).abs().max() < 0.16  # no column is special (6 sigma)
    correlation = torch.corrcoef(masks.flatten(1))
    assert (correlation - torch.eye(3)).abs().max() < 0.012
    flat = masks[0].flatten()
    for lag in (1, 2, 64, 512):
        assert torch.corrcoef(torch.stack([flat[lag:], flat[:-lag]]))[0, 1].abs() < 0.012
    assert torch.equal(keys_S2, mask_keys(seed, counter, sites))
    for other in (mask_keys(seed + 1, counter, sites), mask_keys(seed, counter + 1, sites)):
        assert not torch.equal(keys_S2, other)
