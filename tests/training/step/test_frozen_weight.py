"""Weights in 4 bits, whichever way they were stored, against bitsandbytes' own function.

It is asked for one long row: see findings/bitsandbytes-cpu-misreads-narrow-rows.sh.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from workbench.training.step.lora.frozen_weight import FrozenWeight, Workspace

CPU = torch.device("cpu")
STORED: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "double-quantised": ((48, 40), {}),
    "quantised once": ((48, 40), {"compress_statistics": False}),
    "in bf16": ((48, 40), {"quant_storage": torch.bfloat16}),
    "a last block cut short": ((33, 50), {}),
    "less than a block": ((2, 16), {}),
}


@pytest.mark.parametrize("case", STORED)
def test_a_dequantised_weight_has_the_values_of_bitsandbytes_and_no_more(case: str) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    (outputs, inputs), how = STORED[case]
    torch.manual_seed(0)
    settings = {"compress_statistics": True, "quant_type": "nf4", **how}
    linear = nn.Linear(inputs, outputs, bias=False)
    values = torch.randn(outputs, inputs)
    weight: Any = bnb.nn.Params4bit(values, requires_grad=False, **settings).to("cpu")
    linear.weight = weight
    frozen = FrozenWeight(linear, torch.float32, Workspace(CPU, torch.float32))
    whole = copy.copy(weight.quant_state)
    whole.shape = torch.Size([values.numel()])
    want = bnb.functional.dequantize_4bit(weight.data, whole).view(outputs, inputs)
    assert float((want - values).pow(2).mean().sqrt()) < 0.13
    room = torch.full((values.numel() + 64,), math.nan)
    frozen.dequantise_into(room[: values.numel()].view(outputs, inputs))
    torch.testing.assert_close(
        room[: values.numel()].view(outputs, inputs), want, rtol=1e-6, atol=0
    )
    assert bool(room[values.numel() :].isnan().all())
    torch.testing.assert_close(frozen.dense(), want, rtol=1e-6, atol=0)
