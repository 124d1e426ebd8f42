"""Warm starts: trials that begin with another trial's weights, and those that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.trials import Bench, halt_at, recipe
from workbench.adapters.adapter_folder import WEIGHTS
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.machine.staging import file_sha256

STILL = {"train__learning_rate": 1e-12, "train__weight_decay": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the adapter of a trial of three steps, as an assignment names it."""
    bench = Bench(tmp_path_factory.mktemp("source"), recipe(train__max_steps=3))
    assert bench.run().outcome is Outcome.DONE
    folder = bench.trial / "adapter"
    return {"trial": 7, "folder": str(folder), "sha256": file_sha256(folder / WEIGHTS)}


def test_a_warm_start_begins_with_the_other_trials_weights(
    source: dict[str, Any], tmp_path: Path
) -> None:
    bench = Bench(tmp_path, recipe(train__max_steps=2, **STILL))
    log = bench.run(warm=source)
    assert log.outcome is Outcome.DONE, log.end
    assert any("warm start" in line["text"] for line in log.of("log"))
    theirs = load_file(Path(source["folder"]) / WEIGHTS)
    mine = load_file(bench.trial / "adapter" / WEIGHTS)
    assert theirs.keys() == mine.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-9)


def test_a_resumed_warm_start_continues_from_its_own_checkpoint(
    source: dict[str, Any], tmp_path: Path
) -> None:
    settings = recipe(train__save_every=1, train__log_every=1)
    whole = Bench(tmp_path / "whole", settings).run(warm=source)
    bench = Bench(tmp_path / "cut", settings)
    assert bench.run(on=halt_at(3, Halt.YIELD), warm=source).outcome is Outcome.YIELDED
    rest = bench.run(warm=source)
    assert rest.outcome is Outcome.DONE, rest.end
    assert rest.losses[6] == whole.losses[6]
    assert not any("warm start" in line["text"] for line in rest.of("log"))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"lora__rank": 8}, "lora.rank is 8, and the adapter of trial 7 has 4"),
        ({"lora__alpha": 32.0}, "lora.alpha is 32.0"),
        ({"lora__targets": ["q_proj"]}, "which lora.targets leaves out"),
    ],
)
def test_another_shape_is_refused_before_the_base_is_loaded(
    source: dict[str, Any], tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    log = Bench(tmp_path, recipe(**changed)).run(warm=source)
    assert log.outcome is Outcome.FAILED
    assert says in log.end["reason"]
    assert "start again with -s lora." in log.end["hint"]
    assert "loading" not in [phase["name"] for phase in log.of("phase")]


def test_a_changed_byte_in_the_source_is_found(source: dict[str, Any], tmp_path: Path) -> None:
    other = {**source, "sha256": "f" * 64}
    log = Bench(tmp_path, recipe()).run(warm=other)
    assert log.outcome is Outcome.FAILED
    assert "changed since it was saved" in log.end["reason"]


def test_a_missing_source_is_reported(source: dict[str, Any], tmp_path: Path) -> None:
    log = Bench(tmp_path, recipe()).run(warm={**source, "folder": str(tmp_path / "gone")})
    assert log.outcome is Outcome.FAILED
    assert "cannot be read" in log.end["reason"]
