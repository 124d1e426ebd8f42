"""A trial on packed rows: its batches are bins, and it resumes as any other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, halt_at, plan, recipe
from workbench.fleet import Halt
from workbench.training.model.base import ResidentBase

DEMO = "workbench:demo/data/train.jsonl"
MIXTURE = [{"path": DEMO, "rows": 14}, {"path": DEMO, "weight": 0.01, "system": "Be brief."}]


@pytest.mark.parametrize(("train", "most_rows"), [(DEMO, 24), (MIXTURE, None)])
def test_a_step_takes_bins_and_a_paused_trial_goes_on_with_the_same_losses(
    tmp_path: Path, train: Any, most_rows: int | None
) -> None:
    settings = recipe(
        data__train=train,
        data__max_rows=most_rows,
        data__packing=True,
        data__max_tokens=256,
        train__epochs=2,
        train__log_every=1,
    )
    resident = ResidentBase()
    whole, paused = (Bench(tmp_path / name, settings) for name in ("whole", "paused"))
    prepared = json.loads((whole.home / "experiments" / "1" / "prepared.json").read_text())["data"]
    bins, rows = prepared["train_rows"], prepared["packed_rows"]
    assert bins < rows
    through = whole.run(resident).losses
    assert len(through) == 2 * math.ceil(bins / settings.train.rows_per_step)
    paused.run(resident, on=halt_at(2, Halt.YIELD))
    rest = paused.run(resident).losses
    assert rest == {step: through[step] for step in rest}
    assert list(rest)[-1] == list(through)[-1]


def test_rows_in_a_bin_do_not_see_one_another_in_training(tmp_path: Path) -> None:
    """One step over all rows has the same loss, whether they are packed or not."""
    losses = []
    for packing in (False, True):
        settings = recipe(
            data__packing=packing,
            data__max_tokens=256,
            train__max_steps=1,
            train__batch_size=24,
            train__warmup=0.0,
            train__log_every=1,
            lora__dropout=0.0,
        )
        bench = Bench(tmp_path / str(packing), settings, plan(rows_per_step=24))
        losses.append(bench.run().losses[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
