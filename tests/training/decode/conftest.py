"""One model of each family that the fast path decodes, shared by the tests of this folder."""

from __future__ import annotations

import pytest
from peft import PeftModel

from tests.training.step.conftest import FUSED_FAMILIES, SEEING, build_model
from workbench.footprint.model.shape import UNDECODED_FAMILIES

DECODED = [one for one in FUSED_FAMILIES if SEEING.get(one, one) not in UNDECODED_FAMILIES]


@pytest.fixture(scope="package", params=DECODED)
def decoded_model(request: pytest.FixtureRequest) -> PeftModel:
    """A model of each family, for tests that leave it as it was."""
    return build_model(request.param)
