"""Checkpoints are written while training goes on, and hold what the end of their step left."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from tests.training.test_host_memory import Machine
from tests.training.trials import Bench, Log, recipe
from workbench import fault_points
from workbench.adapters import adapter_folder
from workbench.attempts.events import Outcome
from workbench.fleet import Halt
from workbench.fleet.trial_fence import Superseded, TrialFence, allow_attempt, call_off
from workbench.machine import staging
from workbench.machine.staging import file_sha256
from workbench.training.checkpoints import checkpoint
from workbench.training.checkpoints.checkpoint import COMMIT
from workbench.training.checkpoints.contents import RANDOM, STATE
from workbench.training.control import Control
from workbench.training.memory.host_memory import MemoryMonitor

SETTINGS: dict[str, Any] = {"train__epochs": 2, "train__max_steps": 8}
"""Eight steps with checkpoints after the fourth and the last."""
On = Callable[[str, dict[str, Any], Control], None]


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which a test arms faults."""
    monkeypatch.setenv(fault_points.VARIABLE, str(tmp_path / "fault"))
    return tmp_path / "fault"


def at(kind: str, step: int, act: Callable[[Control], None]) -> On:
    """Return a callback for Bench.run that acts at the event of that step."""

    def on(told: str, data: dict[str, Any], control: Control) -> None:
        if (told, data.get("step")) == (kind, step):
            act(control)

    return on


def release(fault: Path) -> None:
    """Let the write go on that the action `hold` keeps waiting."""
    Path(f"{fault}.fired").unlink()


def order(log: Log) -> list[str]:
    """Return metrics, checkpoints, scores and adapters in the order of their events."""
    kinds = ("metric", "checkpoint", "score", "adapter")
    return [f"{kind} {data.get('step', '')}".strip() for kind, data in log.events if kind in kinds]


def files_of(bench: Bench, step: int) -> dict[str, Any]:
    """Return sizes and digests of a checkpoint's files, after all of them were compared."""
    path = checkpoint.folder_of(bench.checkpoints, step)
    checkpoint.verify(path)
    files: dict[str, Any] = json.loads((path / COMMIT).read_text())["files"]
    return files


def test_training_goes_on_and_the_checkpoint_holds_its_own_step(
    fault: Path, tmp_path: Path
) -> None:
    """The other trial finds no memory for a copy, and writes while it stands still."""
    fault.write_text("checkpoint.copied=hold")
    held = Bench(tmp_path / "held", recipe(**SETTINGS))
    log = held.run(on=at("metric", 6, lambda _: release(fault)))
    assert order(log).index("metric 6") < order(log).index("checkpoint 4")
    assert order(log).index("checkpoint 4") < order(log).index("checkpoint 8")
    machine = Machine(tmp_path / "root")

    def crowd(kind: str, data: dict[str, Any], _: Control) -> None:
        if kind == "phase" and data["name"] == "training":
            machine.free(7)

    still = Bench(tmp_path / "still", recipe(**SETTINGS))
    crowded = partial(MemoryMonitor, root=machine.root, pause=machine.pause)
    there = still.run(on=crowd, host=crowded)
    assert order(there).index("checkpoint 4") < order(there).index("metric 6")
    assert there.losses == log.losses
    assert len(files_of(still, 4)) == 5
    for step in (4, 8):
        assert files_of(held, step) == files_of(still, step)


@pytest.mark.parametrize("how", [Halt.YIELD, Halt.FINISH])
def test_a_halt_waits_for_the_write_that_is_under_way(
    how: Halt, fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.copied=hold")

    def halt(control: Control) -> None:
        control.request_halt(how)
        release(fault)

    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    log = bench.run(on=at("metric", 6, halt))
    assert log.outcome is (Outcome.YIELDED if how is Halt.YIELD else Outcome.STOPPED)
    assert [row["step"] for row in log.of("checkpoint")] == [4, 7]
    assert order(log).index("metric 6") < order(log).index("checkpoint 4")
    found = checkpoint.newest_first(bench.checkpoints)
    assert [checkpoint.verify(path).step for path in found] == [7, 4]
    assert bool(log.of("adapter")) is (how is Halt.FINISH)


def test_an_attempt_that_is_called_off_gives_up_the_write_that_is_under_way(
    fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.copied=hold")
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    fences: list[TrialFence] = []

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "started":
            allow_attempt(bench.trial, 1)
            control.fence = TrialFence(bench.trial, 1)
            fences.append(control.fence)
        if (kind, data.get("step")) == ("metric", 6):
            call_off(bench.trial)
            release(fault)

    with pytest.raises(Superseded):
        bench.run(on=on)
    fences[0].release()
    assert list(bench.checkpoints.glob("*")) + list(bench.checkpoints.glob(".*")) == []


def test_the_last_checkpoint_is_written_while_its_weights_are_scored(
    fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.copied=hold@2")
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    log = bench.run(on=at("score", 8, lambda _: release(fault)))
    assert order(log)[-3:] == ["score 8", "checkpoint 8", "adapter"]
    assert log.outcome is Outcome.DONE


def test_a_last_checkpoint_that_is_the_best_is_written_until_its_answers_are_scored(
    fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.copied=hold@2")
    bench = Bench(tmp_path / "home", recipe(**SETTINGS, evaluate__every=4))
    log = bench.run(on=at("score", 8, lambda _: release(fault)))
    assert order(log)[-3:] == ["score 8", "checkpoint 8", "adapter"]
    best = checkpoint.best_verified(bench.checkpoints)
    assert best is not None
    assert (best.step, best.held_out) == (8, log.scores["loss"])


def test_the_last_checkpoint_holds_no_optimizer_and_its_trial_ends_as_one_that_ran_through(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    paused = bench.run(on=at("metric", 8, lambda control: control.request_halt(Halt.YIELD)))
    assert (paused.outcome, paused.end["step"]) == (Outcome.YIELDED, 8)
    assert set(files_of(bench, 8)) == {checkpoint.WEIGHTS, STATE}
    assert set(files_of(bench, 4)) == {
        checkpoint.WEIGHTS, STATE, OPTIMIZER_NAME, SCHEDULER_NAME, RANDOM,
    }  # fmt: skip
    resumed = bench.run()
    straight = Bench(tmp_path / "straight", recipe(**SETTINGS)).run()
    assert resumed.outcome is straight.outcome is Outcome.DONE
    assert resumed.losses == {}
    assert resumed.scores == straight.scores
    assert resumed.of("adapter")[0]["sha256"] == straight.of("adapter")[0]["sha256"]


def test_a_damaged_last_checkpoint_is_trained_again_from_the_one_before(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    first = bench.run()
    (checkpoint.folder_of(bench.checkpoints, 8) / checkpoint.WEIGHTS).write_bytes(b"")
    again = bench.run()
    assert again.outcome is Outcome.DONE
    assert again.losses == {step: first.losses[step] for step in (6, 8)}
    assert again.scores == first.scores


def test_the_weights_of_the_last_checkpoint_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(f"{path.parent.name}/{path.name}")
        return file_sha256(path)

    monkeypatch.setattr(staging, "file_sha256", counted)
    log = Bench(tmp_path / "home", recipe(**SETTINGS)).run()
    assert log.outcome is Outcome.DONE
    assert [one for one in read if one.endswith(".safetensors")] == [
        f".step-00000{step}.staging/{checkpoint.WEIGHTS}" for step in (4, 8)
    ]


def test_a_disk_that_is_full_while_training_goes_on_ends_the_trial_as_one_that_stood_still(
    fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.filled=no_space@2")
    settings = recipe(**{**SETTINGS, "train__save_every": 3})
    bench = Bench(tmp_path / "home", settings)
    log = bench.run()
    assert (log.end["cause"], log.end["stage"]) == ("disk_full", "saving")
    assert "free space" in log.end["hint"]
    assert 6 <= log.end["step"] <= 8
    assert [path.name for path in bench.checkpoints.iterdir()] == ["step-000003"]
    resumed = bench.run()
    assert resumed.outcome is Outcome.DONE
    straight = Bench(tmp_path / "straight", settings).run()
    assert resumed.losses == {step: straight.losses[step] for step in resumed.losses}


def test_a_disk_that_is_full_at_the_last_checkpoint_ends_the_trial_before_its_adapter(
    fault: Path, tmp_path: Path
) -> None:
    fault.write_text("checkpoint.filled=no_space@2")
    log = Bench(tmp_path / "home", recipe(**SETTINGS)).run()
    assert (log.end["cause"], log.end["stage"], log.end["step"]) == ("disk_full", "saving", 8)
    assert log.of("adapter") == []


def test_the_adapter_is_linked_while_its_weights_are_scored(fault: Path, tmp_path: Path) -> None:
    fault.write_text("adapter.linked=hold")
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    log = bench.run(on=at("score", 8, lambda _: release(fault)))
    assert log.outcome is Outcome.DONE
    (saved,) = log.of("adapter")
    weights = bench.trial / "adapter" / adapter_folder.WEIGHTS
    assert saved["sha256"] == staging.file_sha256(weights)
    assert saved["bytes"] == weights.stat().st_size
    assert weights.samefile(checkpoint.folder_of(bench.checkpoints, 8) / checkpoint.WEIGHTS)
    assert list(bench.trial.glob(".*")) == []


@pytest.mark.parametrize("broken", ["damaged", "no links"])
def test_an_adapter_that_cannot_be_linked_is_written(
    broken: str, fault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "this disk has no links")

    if broken == "damaged":
        fault.write_text("checkpoint.after_rename=truncate@2")
    else:
        monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    log = bench.run()
    assert log.outcome is Outcome.DONE
    (saved,) = log.of("adapter")
    weights = bench.trial / "adapter" / adapter_folder.WEIGHTS
    last = checkpoint.folder_of(bench.checkpoints, 8) / checkpoint.WEIGHTS
    assert not weights.samefile(last)
    assert saved["sha256"] == staging.file_sha256(weights)
    assert (saved["sha256"] != staging.file_sha256(last)) is (broken == "damaged")


@pytest.mark.parametrize("armed", ["adapter.linked=no_space", ""], ids=["full disk", "paused"])
def test_an_adapter_that_is_given_up_leaves_nothing(
    armed: str, fault: Path, tmp_path: Path
) -> None:
    def pause(kind: str, data: dict[str, Any], control: Control) -> None:
        if not armed and data.get("name") == "evaluating":
            control.request_halt(Halt.YIELD)

    fault.write_text(armed)
    bench = Bench(tmp_path / "home", recipe(**SETTINGS))
    log = bench.run(on=pause)
    assert (log.end["outcome"], log.end["cause"]) == (
        ("failed", "disk_full") if armed else ("yielded", "")
    )
    assert {path.name for path in bench.trial.iterdir()} <= {"checkpoints", "results"}
    assert bench.run().outcome is Outcome.DONE
