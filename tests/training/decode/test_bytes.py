"""The bytes that the plan has for the decode path's own tensors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.step.conftest import ModelOf, model_of
from workbench.footprint.model.shape import ModelShape
from workbench.footprint.peak.scoring_bytes import low_rank_bytes, mean_rank
from workbench.training.decode.forward import FastForward

__all__ = ["model_of"]


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_low_rank_matrices_of_several_adapters_take_what_the_plan_says(
    family: str, model_of: ModelOf
) -> None:
    model: Any = model_of(family)
    ranks = (8, 16, 24)  # no columns are added to multiples of 8
    for rank in ranks:
        config = replace(model.peft_config["default"], r=rank, target_modules="all-linear")
        model.add_adapter(f"rank_{rank}", config)
    names = [f"rank_{rank}" for rank in ranks]
    parameters = sum(
        param.numel() for name, param in model.named_parameters() if "lora_" in name
        and any(f".{one}." in name for one in names)
    )  # fmt: skip
    shape = ModelShape.of(model.config.to_dict())
    forward = FastForward(model, torch.float32, adapters=names)
    forward.restore()
    held = sum(t.nbytes for group in forward.groups for t in (group._a_CK, group._b_NC))
    assert mean_rank(shape, parameters) == sum(ranks)
    assert low_rank_bytes(shape, "fp32", parameters=parameters) == held
