"""Trials one after another on one base, with the step of the one before, against fresh ones."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.trials import CARD, Bench, Log, halt_at, plan, recipe
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.training.model.base import ResidentBase
from workbench.training.worker import Worker

KEEPS = plan(keeps_graphs=True)
SETTINGS: dict[str, Any] = {"train__max_steps": 3, "train__log_every": 1, "lora__dropout": 0.1}
LIMIT_S = 120.0


def bench(folder: Path, **changed: Any) -> Bench:
    return Bench(folder, recipe(**SETTINGS | changed), plan=KEEPS)


def weights(one: Bench) -> dict[str, list[float]]:
    found = load_file(one.trial / "adapter" / "adapter_model.safetensors")
    return {name: tensor.flatten().tolist() for name, tensor in found.items()}


def told(log: Log) -> list[dict[str, float]]:
    timed = {"tokens_per_s", "step_s", "peak_bytes"}
    rows = [row["values"] for row in log.of("metric")]
    return [{name: row[name] for name in row.keys() - timed} for row in rows]


def test_trials_after_another_are_those_of_fresh_bases(tmp_path: Path) -> None:
    worker, steps = ResidentBase(), []
    changes: list[dict[str, Any]] = [
        {"evaluate__every": 2},
        {"train__seed": 5, "train__optimizer": "sgd", "train__keep": "best", "evaluate__every": 1},
        {"lora__alpha": 4},
    ]
    for number, changed in enumerate(changes):
        kept = bench(tmp_path / f"kept-{number}", **changed)
        fresh = bench(tmp_path / f"fresh-{number}", **changed)
        log, expected = kept.run(worker), fresh.run(ResidentBase())
        assert log.outcome is Outcome.DONE, log.end
        assert worker.keeper.holds
        steps.append(id(worker.keeper._step))
        assert told(log) == told(expected)
        assert log.scores == expected.scores
        assert weights(kept) == weights(fresh)
    assert steps[0] == steps[1]
    assert steps[2] != steps[1], "another alpha is part of what is captured"


def test_a_trial_with_an_adapter_on_its_embeddings_trains_beside_others_and_keeps_nothing(
    tmp_path: Path,
) -> None:
    worker, tables = ResidentBase(), {"lora__targets": ["embed_tokens", "q_proj"]}
    bench(tmp_path / "before").run(worker)
    assert worker.keeper.holds
    kept, fresh = (bench(tmp_path / name, **tables) for name in ("kept", "fresh"))
    log, expected = kept.run(worker), fresh.run(ResidentBase())
    assert log.outcome is expected.outcome is Outcome.DONE, log.end
    assert not worker.keeper.holds
    assert told(log) == told(expected)
    assert weights(kept) == weights(fresh)
    table = next(key for key in weights(kept) if key.endswith("lora_embedding_A"))
    assert any(weights(kept)[table]), "it begins with zeros"


def test_a_trial_that_gives_its_card_back_keeps_nothing_and_resumes_alike(tmp_path: Path) -> None:
    worker, changed = ResidentBase(), {"train__max_steps": 4, "train__save_every": 2}
    bench(tmp_path / "before", **changed).run(worker)
    assert worker.keeper.holds
    halted, whole = (bench(tmp_path / name, **changed) for name in ("halted", "whole"))
    first = halted.run(worker, on=halt_at(2, Halt.YIELD))
    assert first.outcome is Outcome.YIELDED
    assert not worker.keeper.holds
    bench(tmp_path / "between", **changed).run(worker)
    losses = {**first.losses, **halted.run(worker).losses}
    assert losses == whole.run(ResidentBase()).losses
    assert weights(halted) == weights(whole)


def test_an_attempt_that_trains_nothing_releases_the_step(tmp_path: Path) -> None:
    worker = ResidentBase()
    bench(tmp_path).run(worker)
    assert worker.keeper.holds
    scored = Bench(tmp_path, recipe(**SETTINGS), plan=KEEPS, kind="base")
    assert scored.run(worker).outcome is Outcome.DONE
    assert not worker.keeper.holds


def test_a_next_plan_without_room_releases_it(tmp_path: Path) -> None:
    worker = ResidentBase()
    bench(tmp_path).run(worker)
    other = Bench(tmp_path / "other", recipe(**SETTINGS), plan=plan(keeps_graphs=False))
    assert other.run(worker).outcome is Outcome.DONE
    assert not worker.keeper.holds


def test_the_base_takes_the_step_with_it(tmp_path: Path) -> None:
    worker = ResidentBase()
    bench(tmp_path).run(worker)
    worker.release()
    assert not worker.keeper.holds


def test_an_idle_worker_releases_the_step_before_the_base(tmp_path: Path) -> None:
    worker = Worker(CARD.to_json(), 1, str(tmp_path), kept_s=0.0)
    try:
        worker.start(bench(tmp_path).assignment().to_json())
        report = worker.wait(lambda now: now["phase"] == "idle" and not now["keeps_step"], LIMIT_S)
        assert report["base"]
    finally:
        worker.close()
        assert worker.join(LIMIT_S)


@pytest.mark.slow
def test_twenty_trials_on_one_worker_are_those_of_fresh_bases(tmp_path: Path) -> None:
    worker, steps, alive = ResidentBase(), set(), []
    for number in range(20):
        changed = {"train__seed": number, "train__learning_rate": 1e-3 * (1 + number % 3)}
        kept = bench(tmp_path / f"kept-{number}", **changed)
        fresh = bench(tmp_path / f"fresh-{number}", **changed)
        log = kept.run(worker)
        steps.add(id(worker.keeper._step))
        gc.collect()
        alive.append(sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects()))
        expected = fresh.run(ResidentBase())
        assert told(log) == told(expected)
        assert log.scores == expected.scores
        assert weights(kept) == weights(fresh)
    assert len(steps) == 1
    assert alive[19] == alive[1]
