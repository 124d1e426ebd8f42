"""Ctrl-c at every stage of foreground training."""

from __future__ import annotations

import pytest

from tests.training.test_interrupts import Foreground, foreground, forked  # noqa: F401  # fixtures
from workbench.training.checkpoints.checkpoint import newest_first

pytestmark = pytest.mark.fault

STAGES = ("card ", "-- loading", "step ", "-- evaluating", "-- saving")
"""Beginnings of lines that foreground training prints when a stage begins."""


def test_ctrl_c_at_every_stage_of_training_ends_it_with_words_and_loses_nothing(
    foreground: Foreground,  # noqa: F811
) -> None:
    for stage in STAGES[:-1]:
        code, out, errors = foreground.run(until=stage)
        assert code == 130, (stage, out, errors)
        assert "Traceback" not in errors, stage
        assert "the same command with --out" in out + errors, stage
    steps = [path.name for path in newest_first(foreground.folder / "checkpoints")]
    assert steps[0] == "step-000012"
    code, out, errors = foreground.run(until="-- saving")
    assert (code, "Traceback" in errors) == (0, False), errors  # the adapter is whole by then
    assert (foreground.folder / "adapter" / "adapter_config.json").is_file()
    assert "grad_norm" not in out  # nothing was trained again
