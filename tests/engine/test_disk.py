"""The disk guard: floor, reserve file, pruning; on a file system that is really full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.attempts.events import EventWriter
from workbench.engine import survive_error
from workbench.machine import reserve_file
from workbench.machine.files import free_bytes
from workbench.scheduler import tick
from workbench.scheduler.guards.disk import DISK_LOW
from workbench.scheduler.tick_context import events_file
from workbench.store import Blocked
from workbench.store.queries import attempt_history
from workbench.trial import State

MIB = 1 << 20
LONG = {"train": {"max_steps": 900, "save_every": 2, "learning_rate": 0.1}}
MakeBench = Callable[..., Bench]


def told(bench: Bench) -> list[str]:
    return [event.text for event in bench.store.events() if event.kind == "disk"]


def free_space(free: int) -> Callable[[Path], int]:
    """Return a replacement of `TickContext.disk_free` that always answers `free` bytes."""
    return lambda folder: free


class TestFloor:
    def test_below_it_nothing_starts_and_it_says_why(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.context.disk_free = lambda folder: 1000 * MIB
        bench.submit(recipe())
        bench.ticks(2)
        waiting = bench.store.trial(2).waiting
        assert "has 1000 MiB left, below 2.0 GiB (guards.disk_floor)" in waiting
        assert told(bench) == [waiting]
        bench.context.disk_free = lambda folder: 1 << 40
        bench.until(State.DONE, 2)
        assert bench.store.fact(DISK_LOW) == ""
        assert told(bench)[1:] == ["the disk has 1024.0 GiB free again"]

    def test_what_runs_goes_on(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.context.disk_free = lambda folder: 1000 * MIB
        bench.ticks(5)
        assert bench.store.trial(2).state is State.RUNNING

    def test_it_is_the_users(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.configure('disk_floor = "1GB"\nballast = "0"')
        bench.context.disk_free = lambda folder: 1000 * MIB
        bench.submit(recipe())
        bench.until(State.DONE, 2)

    def test_a_disk_at_its_floor_is_told_of_once(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        for room in (2047, 2049, 2047, 2049):
            bench.context.disk_free = free_space(room * MIB)
            bench.ticks(1)
        assert len(told(bench)) == 1


class TestFullDiskUnderATrial:
    def end(self, bench: Bench, trial: int) -> None:
        """Its worker writes what one writes that fails on a full disk."""
        attempt = bench.store.attempts(trial)[-1]
        writer = EventWriter(events_file(bench.context.home, attempt.id))
        writer.write("end", outcome="failed", step=1, reason="the disk is full", cause="disk_full")
        writer.close()
        bench.ticks(1)

    def test_its_trial_waits_for_room_and_goes_on(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.context.disk_free = lambda folder: 10 * MIB
        self.end(bench, 2)
        bench.context.fleet.end("cpu-0", "its disk was full")
        bench.ticks(2)
        trial = bench.store.trial(2)
        assert trial.state is State.QUEUED
        assert "10 MiB left" in trial.waiting
        assert bench.store.attempts(2)[0].cause == "disk_full"
        assert bench.store.cards()[0].quarantined == ""
        said = [event.text for event in bench.store.events() if event.kind == "disk"]
        assert any(text.startswith("trial 2: the disk was full at step") for text in said), said
        bench.context.disk_free = lambda folder: 1 << 40
        bench.until(State.RUNNING, 2)

    def test_one_that_fills_it_each_time_fails_in_the_end(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe(train={"max_steps": 900, "save_every": 500}))
        for _ in range(3):
            bench.until(State.RUNNING, 2)
            self.end(bench, 2)
            bench.context.fleet.end("cpu-0", "its disk was full")
        bench.ticks(1)
        trial = bench.store.trial(2)
        assert (trial.state, trial.attempts) == (State.FAILED, 3)
        assert trial.reason == "the disk is full"

    def test_a_worker_lost_on_a_full_disk_is_not_its_cards_fault(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe(**LONG))
        bench.until(State.RUNNING, 2)
        bench.context.disk_free = lambda folder: 10 * MIB
        bench.ticks(1)
        bench.context.fleet.end("cpu-0", "the attempt's events cannot be written")
        bench.ticks(1)
        assert bench.store.attempts(2)[0].outcome == "cut"


def test_who_gives_first(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    grid = {"parameters": {"train.learning_rate": [0.1, 0.01, 0.666, 0.05, 0.02]}}
    bench.submit(recipe(sweep=grid))
    for _ in range(100):
        bench.ticks(1)
        if bench.store.trial(6).state is State.RUNNING and bench.store.trial(6).checkpoint_step:
            break
    bench.store.db.execute(
        "update trials set checkpoint_step = 2 where id = 4"
    )  # the one that failed
    # failed, then from the worst score to the best, then what runs
    assert attempt_history.prune_order(bench.store, 10) == [4, 3, 5, 2, 6]
    assert attempt_history.prune_order(bench.store, 2) == [4, 3]


class TestThinning:
    def test_it_is_asked_for_and_told(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe())
        bench.until(State.DONE, 2)
        aside = bench.context.home.trial(2) / "checkpoints" / "damaged" / "step-000001"
        aside.mkdir(parents=True)
        (aside / "optimizer.pt").write_bytes(b"x" * MIB)
        whole(bench.context.home.trial(2) / "checkpoints")
        bench.context.disk_free = lambda folder: 1000 * MIB
        bench.ticks(1)
        assert bench.context.pruner.busy
        child = bench.context.pruner._child
        assert child is not None
        child.wait(60)
        bench.ticks(1)
        assert not aside.exists()
        assert any(
            "removed 1 older checkpoints (1 MiB) of trials 2" in text for text in told(bench)
        )

    def test_it_is_not_asked_for_again_and_again(self, bench_of: MakeBench) -> None:
        bench = bench_of(cpu_card(0))
        bench.submit(recipe())
        bench.until(State.DONE, 2)
        bench.context.disk_free = lambda folder: 1000 * MIB
        bench.ticks(1)
        child = bench.context.pruner._child
        assert child is not None
        child.wait(60)
        bench.ticks(20)
        assert not bench.context.pruner.busy


def whole(checkpoints: Path) -> None:
    """A checkpoint that verifies, so that there is one to keep."""
    from workbench.training.checkpoints import checkpoint

    staged = checkpoints / ".step-000009.new"
    staged.mkdir()
    (staged / checkpoint.WEIGHTS).write_bytes(b"weights")
    belongs = checkpoint.Provenance(recipe="", data="", precision="", optimizer="", versions={})
    checkpoint.commit(staged, checkpoints, step=9, belongs=belongs, window={})


class TestBallast:
    def test_it_grows_by_and_by_and_is_cut_to_what_is_wanted(self, tmp_path: Path) -> None:
        path = tmp_path / "ballast"
        for _ in range(3):
            reserve_file.grow_reserve(path, 9 * MIB)
        assert reserve_file.reserve_size(path) == 9 * MIB
        reserve_file.grow_reserve(path, 5 * MIB)
        assert reserve_file.reserve_size(path) == 5 * MIB
        reserve_file.grow_reserve(path, 0)
        assert not path.exists()

    def test_giving_it_up_twice_frees_it_once(self, tmp_path: Path) -> None:
        reserve_file.grow_reserve(tmp_path / "ballast", MIB)
        assert reserve_file.release_reserve(tmp_path / "ballast") == MIB
        assert reserve_file.release_reserve(tmp_path / "ballast") == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 32 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (that takes root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk to its last byte, as another program would."""
    path = folder / "somebody-elses"
    with path.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"x" * 4096)
    return path


def test_on_a_full_disk_the_reserve_file_lets_the_loop_report_it_and_nothing_is_lost(
    small: Path,
) -> None:
    bench = make_bench(small, [cpu_card(0)])
    bench.configure('disk_floor = "8MiB"\nballast = "6MiB"')
    bench.submit(recipe(sweep={"parameters": {"train.learning_rate": [0.1, 0.05]}}))
    bench.until(State.RUNNING, 2)
    ticks_until(
        bench, lambda: reserve_file.reserve_size(bench.context.home.reserve_file) == 6 * MIB
    )
    somebody = fill(small)
    assert free_bytes(small) == 0
    ticks_until(bench, lambda: not bench.context.home.reserve_file.exists())
    ticks_until(
        bench, lambda: any("the reserve file (6 MiB) was released" in one for one in told(bench))
    )
    assert "free some" in (bench.store.fact(DISK_LOW) or "")
    known = {trial.id for trial in bench.trials()}
    somebody.unlink()
    ticks_until(bench, lambda: {trial.state for trial in bench.trials()} == {State.DONE})
    assert {trial.id for trial in bench.trials()} == known == {1, 2, 3}
    ticks_until(
        bench, lambda: reserve_file.reserve_size(bench.context.home.reserve_file) == 6 * MIB
    )
    assert bench.store.db.execute("pragma integrity_check").fetchone()[0] == "ok"
    bench.context.fleet.close()
    bench.store.close()


def ticks_until(bench: Bench, fact: Callable[[], bool], limit: int = 200) -> None:
    """Tick as the engine's loop does, until the condition holds."""
    for _ in range(limit):
        if fact():
            return
        bench.now += 1.0
        try:
            tick(bench.context)
        except (OSError, Blocked) as full:
            survive_error(bench.context, full)
    raise AssertionError(told(bench))
