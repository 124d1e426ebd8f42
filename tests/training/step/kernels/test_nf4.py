"""Dequantised NF4 weights against bitsandbytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.step.kernels.device import needs_triton, randn
from workbench.training.step.kernels.nf4 import nf4_dequantize

pytestmark = needs_triton


def test_nf4_dequantize_gives_the_values_of_bitsandbytes() -> None:
    functional: Any = pytest.importorskip("bitsandbytes.functional")
    weight = randn(48, 704)
    packed, state = functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    want = functional.dequantize_4bit(packed, state)
    got = nf4_dequantize(packed, state, torch.full_like(weight, float("nan")))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
