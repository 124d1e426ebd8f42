"""Weights that are written are finite, whatever their sum is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workbench.errors import CheckpointError
from workbench.training.checkpoints.contents import write_weights

LARGEST = torch.finfo(torch.float32).max


def test_weights_whose_sum_is_too_large_are_written(tmp_path: Path) -> None:
    weights = {"a": torch.full((4,), LARGEST)}
    write_weights(weights, tmp_path / "weights")
    assert torch.equal(load_file(tmp_path / "weights")["a"], weights["a"])


@pytest.mark.parametrize("numbers", [[math.nan, 1.0], [math.inf, -math.inf], [1.0, -math.inf]])
def test_weights_that_are_not_finite_are_refused_by_name(
    numbers: list[float], tmp_path: Path
) -> None:
    weights = {"good": torch.ones(2), "bad": torch.tensor(numbers)}
    with pytest.raises(CheckpointError, match="not finite: bad"):
        write_weights(weights, tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []
