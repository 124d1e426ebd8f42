"""One model of each family that the fast path decodes, shared by the tests of this folder."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from tests.training.step.conftest import FUSED_FAMILIES, SEEING, build_model
from workbench.footprint.model.shape import UNDECODED_FAMILIES
from workbench.training.decode import forward
from workbench.training.step.attention.choice import AttentionChoice
from workbench.training.step.kernels import triton_support

DECODED = [one for one in FUSED_FAMILIES if SEEING.get(one, one) not in UNDECODED_FAMILIES]


@pytest.fixture(scope="package", params=DECODED)
def decoded_model(request: pytest.FixtureRequest) -> PeftModel:
    """A model of each family, for tests that leave it as it was."""
    return build_model(request.param)


@pytest.fixture(autouse=True)
def _attention_of_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Triton's interpreter prompts attend as on a card, and positions are turned in place."""
    if triton_support.is_usable(torch.device("cpu")):
        kernel = AttentionChoice(kind="triton", why="as on a card")
        monkeypatch.setattr(forward, "choose_attention", lambda *_, **__: kernel)
