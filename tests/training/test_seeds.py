"""A seed decides row order and first weights; the same seed gives the same adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.trials import Bench, Log, recipe
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.training.model.base import ResidentBase

Weights = dict[str, torch.Tensor]


def trained(folder: Path, seed: int, resident: ResidentBase) -> tuple[Log, Weights]:
    settings = recipe(train__seed=seed, train__max_steps=3, train__log_every=1, lora__dropout=0.0)
    bench = Bench(folder / "home", settings)
    log = bench.run(resident)
    return log, load_file(bench.trial / "adapter" / WEIGHTS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Log, Weights]]:
    """Trials with the seeds 1, 2 and 1 again, one after another on the same base."""
    resident = ResidentBase()
    return [trained(tmp_path_factory.mktemp("trial"), seed, resident) for seed in (1, 2, 1)]


def losses(log: Log) -> list[float]:
    return [one["values"]["loss"] for one in log.of("metric") if "loss" in one["values"]]


def test_two_seeds_give_other_losses_and_another_adapter(runs: list[tuple[Log, Weights]]) -> None:
    (first, one), (second, other), _ = runs
    # The first loss is that of the untrained adapter: only the order of the rows can change it.
    assert losses(first)[0] != losses(second)[0]
    assert losses(first) != losses(second)
    assert one.keys() == other.keys()
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_losses_and_the_same_adapter(
    runs: list[tuple[Log, Weights]],
) -> None:
    (first, one), _, (third, again) = runs
    assert losses(first) == losses(third)
    assert all(torch.equal(one[name], again[name]) for name in one)
