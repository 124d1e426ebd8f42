"""Metrics and scores copied elsewhere: each step once, a run a trial, and nothing waits for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.support.tick_contexts import Bench, cpu_card, recipe
from tests.support.waiting import wait_for
from workbench.doctor import machine
from workbench.home import Home
from workbench.scheduler.children import sink_processes
from workbench.scheduler.children.sink_processes import SinkProcesses
from workbench.sinks.follower import Follower
from workbench.sinks.offline_files import note_closed, remove_unfinished
from workbench.sinks.tensorboard import TensorBoard
from workbench.store import results
from workbench.store.queries import logged_steps
from workbench.trial import State
from workbench.user_config import ConfigWatch

MakeBench = Callable[..., Bench]
Follow = Callable[[Bench], Follower]


@pytest.fixture
def follow() -> Iterator[Callable[[Bench], Follower]]:
    """Begins like a sink's process that has just been started."""
    made = []

    def begin(bench: Bench) -> Follower:
        folder = bench.context.home.sinks
        folder.mkdir(exist_ok=True)
        sink = TensorBoard(folder / "tensorboard")
        file = folder / "tensorboard.json"
        made.append(Follower(bench.context.home, sink, file, lambda: bench.now))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def runs(bench: Bench) -> list[Path]:
    return sorted((bench.context.home.sinks / "tensorboard").glob("*/*/*tfevents*"))


def series(file: Path, tag: str = "loss") -> list[int]:
    return [one.step for one in accumulated(file).Scalars(tag)]


def accumulated(file: Path) -> Any:
    found = EventAccumulator(str(file), size_guidance={"scalars": 0})
    found.Reload()
    return found


def test_every_step_of_a_trial_comes_once_and_the_scores_at_its_last(
    bench_of: MakeBench, follow: Follow
) -> None:
    bench = bench_of(cpu_card(0))
    follower = follow(bench)
    id = bench.submit(recipe(train={"max_steps": 6, "save_every": 2, "learning_rate": 0.1}))
    trial = bench.store.trials(id)[-1].id
    while bench.store.trial(trial).state is not State.DONE:
        bench.ticks()
        follower.look()
    follower.look()
    (file,) = runs(bench)
    assert file.parent.parent.name == "tiny"
    assert file.parent.name.startswith(f"trial-{trial}-")
    assert series(file) == [1, 2, 3, 4, 5, 6]
    (score,) = accumulated(file).Scalars("score/exact_match")
    assert score.step == 6
    assert score.value == pytest.approx(0.6)
    about = accumulated(file).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(about).session_start_info.hparams
    assert settings["train.learning_rate"].number_value == 0.1


def test_a_sink_that_was_killed_continues_with_the_step_behind_its_last(
    bench_of: MakeBench, follow: Follow
) -> None:
    bench = bench_of(cpu_card(0))
    first = follow(bench)
    id = bench.submit(recipe(train={"max_steps": 6, "save_every": 2, "learning_rate": 0.1}))
    trial = bench.store.trials(id)[-1].id
    bench.until(State.RUNNING, trial)
    bench.ticks(2)
    first.look()
    (file,) = runs(bench)
    seen = series(file)
    assert seen
    assert len(seen) < 6
    with file.open("ab") as torn:  # killed while it wrote, and before it noted how far it was
        torn.write(b"\x40\x00\x00")
    (bench.context.home.sinks / "tensorboard.json").write_text('{"since_utc": 0, "trials": {}}')
    bench.until(State.DONE, trial)
    second = follow(bench)
    second.look()
    assert series(file) == [1, 2, 3, 4, 5, 6]
    second.look()
    assert series(file) == [1, 2, 3, 4, 5, 6]
    assert runs(bench) == [file]


def test_a_trial_that_resumes_stays_one_run_without_a_step_twice(
    bench_of: MakeBench, follow: Follow
) -> None:
    bench = bench_of(cpu_card(0))
    follower = follow(bench)
    id = bench.submit(recipe(train={"max_steps": 6, "save_every": 4, "learning_rate": 0.1}))
    trial = bench.store.trials(id)[-1].id
    while bench.store.trial(trial).step < 3:
        bench.ticks()
        follower.look()
    bench.context.fleet.end("cpu-0", "killed by signal 9")  # before it has a checkpoint
    while bench.store.trial(trial).state is not State.DONE:
        bench.ticks()
        follower.look()
    assert bench.store.trial(trial).attempts == 2
    (file,) = runs(bench)
    assert series(file) == [1, 2, 3, 4, 5, 6]


def test_the_newest_step_waits_for_its_evaluation(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    id = bench.submit(recipe(train={"max_steps": 900, "learning_rate": 0.1}))
    trial = bench.store.trials(id)[-1].id
    results.put_metrics(bench.store, trial, 1, {"loss": 3.0})
    results.put_metrics(bench.store, trial, 2, {"loss": 2.0, "norm": float("nan")})
    row = bench.store.trial(trial)
    assert logged_steps.steps_after(bench.store, row, -1) == [(1, {"loss": 3.0})]
    results.put_metrics(bench.store, trial, 2, {"eval_loss": 2.5})
    results.put_metrics(bench.store, trial, 3, {"loss": 1.0})
    assert logged_steps.steps_after(bench.store, row, 1) == [(2, {"loss": 2.0, "eval_loss": 2.5})]


def test_a_long_trial_comes_in_parts_of_which_none_cuts_a_step(
    bench_of: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged_steps, "MOST_STEPS", 4)
    bench = bench_of(cpu_card(0))
    id = bench.submit(recipe(train={"max_steps": 900, "learning_rate": 0.1}))
    trial = bench.store.trials(id)[-1].id
    for step in range(1, 12):
        values: dict[str, float | None] = {"loss": 1.0 / step}
        if step % 3 == 0:
            values["eval_loss"] = 2.0 / step
        results.put_metrics(bench.store, trial, step, values)
    row, got = bench.store.trial(trial), list[tuple[int, dict[str, float]]]()
    while steps := logged_steps.steps_after(bench.store, row, got[-1][0] if got else -1):
        assert len(steps) <= 4
        got += steps
    assert [step for step, _ in got] == list(range(1, 11))
    assert [step for step, values in got if "eval_loss" in values] == [3, 6, 9]


def test_trials_that_had_ended_before_are_left_out(bench_of: MakeBench, follow: Follow) -> None:
    bench = bench_of(cpu_card(0))
    id = bench.submit(recipe(train={"max_steps": 2, "learning_rate": 0.1}))
    bench.until(State.DONE, bench.store.trials(id)[-1].id)
    bench.now += 1.0
    follower = follow(bench)
    follower.look()
    assert runs(bench) == []


def test_an_offline_file_that_was_not_closed_is_written_again(tmp_path: Path) -> None:
    closed, torn, other = (
        tmp_path / f"offline-run-20261129_09000{n}-trial-{t}-20261129T080000"
        for n, t in ((1, 7), (2, 7), (3, 8))
    )
    for folder in (closed, torn, other):
        folder.mkdir()
    note_closed(closed, 40)
    assert remove_unfinished(tmp_path, "trial-7-20261129T080000") == 40
    assert (closed.exists(), torn.exists(), other.exists()) == (True, False, True)
    assert remove_unfinished(tmp_path / "none", "trial-7-20261129T080000") == -1


# --- the processes ---


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def processes(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., SinkProcesses]]:
    made = []

    def make(config: str, module: str = sink_processes.MODULE) -> SinkProcesses:
        file = tmp_path / "config.toml"
        file.write_text(config)
        home = Home(tmp_path / "home").make()
        made.append(SinkProcesses(home, ConfigWatch(file), clock, module))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_sink_runs_beside_the_loop_until_it_is_closed(
    bench_of: MakeBench, processes: Callable[..., SinkProcesses]
) -> None:
    bench = bench_of(cpu_card(0))
    bench.now = time.time()
    sinks = processes("[tensorboard]\n")
    assert sinks.look() == []
    file = bench.context.home.sinks / "tensorboard.json"
    wait_for(file.exists, "it has looked for the first time")
    id = bench.submit(recipe(train={"max_steps": 6, "save_every": 2, "learning_rate": 0.1}))
    bench.until(State.DONE, bench.store.trials(id)[-1].id)
    sinks.close()  # it looks once more before it ends
    (events,) = runs(bench)
    assert series(events) == [1, 2, 3, 4, 5, 6]


def test_a_package_that_is_missing_is_reported_once(
    tmp_path: Path, processes: Callable[..., SinkProcesses], clock: Clock
) -> None:
    sinks = processes("[wandb]\n")
    if find_spec("wandb"):
        pytest.skip("wandb is installed here")
    sinks.look()
    news = wait_for(sinks.look, "its end is reported")
    clock.now_s += 700  # it is tried again, and says the same
    sinks.look()
    assert sinks.pids
    while sinks.pids:
        news += sinks.look()
    assert news == [
        (
            "warning",
            "trials are not logged to wandb: wandb is not installed; "
            "pip install 'qlora-workbench[wandb]'",
        )
    ]
    check = machine.check_sinks(Home(tmp_path / "home"), tmp_path / "config.toml")
    assert (check.status, check.finding) == ("warn", "wandb is not installed")


def test_a_server_that_never_answers_holds_up_nothing(
    tmp_path: Path, processes: Callable[..., SinkProcesses], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_processes, "END_LIMIT_S", 0.1)
    sinks = processes("[trackio]\n", "tests.support.hanging_sink")
    sinks.look()
    wait_for((tmp_path / "home/hangs").exists, "it hangs")
    began = time.monotonic()
    for _ in range(100):
        assert sinks.look() == []
    assert time.monotonic() - began < 1.0
    pid = sinks.pids["trackio"]
    sinks.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_sink_that_is_no_longer_configured_is_ended(
    tmp_path: Path, processes: Callable[..., SinkProcesses]
) -> None:
    sinks = processes("[tensorboard]\n")
    sinks.look()
    assert sinks.pids
    (tmp_path / "config.toml").write_text("# nothing\n")
    sinks.look()
    assert not sinks.pids
