"""The memory of a worker is released: a late trial finds what an early one found."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from tests.training.test_oom_fallback import holds
from tests.training.trials import Bench, plan, recipe
from workbench.attempts.events import Outcome
from workbench.machine.resources import resident_bytes
from workbench.training.model.base import ResidentBase

MIB = 1 << 20


def tensors() -> tuple[int, int]:
    """Return the number of live tensors and the bytes behind them, each storage counted once."""
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in alive}
    return len(alive), sum(storages.values())


@pytest.mark.parametrize("trials", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_trials_on_one_base_leave_no_tensor_and_no_bytes_behind(
    trials: int, tmp_path: Path
) -> None:
    resident, seen, sizes = ResidentBase(), [], []
    settings = recipe(train__max_steps=2, train__save_every=2, lora__rank=8)
    for turn in range(trials):
        cut = plan(recompute_layers=5) if turn % 3 == 2 else plan()
        bench = Bench(tmp_path / str(turn), settings, plan=cut)
        if turn % 5 == 4:  # an attempt that runs out gives back all it has, its base besides
            with holds(0):
                assert bench.run(resident).outcome is Outcome.FAILED
        assert bench.run(resident).outcome is Outcome.DONE
        seen.append(tensors())
        sizes.append(resident_bytes())
    assert {count for count, _ in seen[3:]} == {seen[3][0]}
    assert {size for _, size in seen[3:]} == {seen[3][1]}
    assert sizes[-1] - sizes[4] < 64 * MIB


def test_a_worker_out_of_memory_holds_no_tensor_of_its_attempt(tmp_path: Path) -> None:
    Bench(tmp_path / "a", recipe(train__max_steps=1)).run()
    before = tensors()
    with holds(0):
        Bench(tmp_path / "b", recipe(train__max_steps=1)).run(ResidentBase())
    assert tensors()[1] <= before[1] + MIB
