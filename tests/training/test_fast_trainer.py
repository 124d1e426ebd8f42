"""The fast step inside the trial's life cycle gives what TRL's step gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.trials import Bench, halt_at, plan, recipe
from workbench.events import Outcome
from workbench.fleet import Halt


@pytest.mark.parametrize("cut", [{}, {"micro_batch": 2, "micro_steps": 2}, {"recompute": True}])
def test_the_same_losses_and_scores_without_dropout(
    cut: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, plans = recipe(lora__dropout=0.0, model__quantization="nf4"), plan(**cut)
    slow = Bench(tmp_path / "a", settings, plan=plans).run()
    monkeypatch.setenv("WORKBENCH_STEP", "fast")
    fast = Bench(tmp_path / "b", settings, plan=plans).run()
    assert fast.outcome is Outcome.DONE
    assert fast.losses.keys() == slow.losses.keys()
    for step, row in slow.losses.items():  # loss and gradient norm
        assert fast.losses[step] == pytest.approx(row, rel=1e-4)
    assert fast.scores == pytest.approx(slow.scores, rel=1e-3)


def test_a_checkpoint_of_one_step_is_refused_by_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, recipe())
    bench.run(on=halt_at(2, Halt.YIELD))
    monkeypatch.setenv("WORKBENCH_STEP", "fast")
    log = bench.run()
    assert log.outcome is Outcome.FAILED
    assert "fast step" in log.end["reason"]
