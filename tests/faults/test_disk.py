"""A disk that fills up under everything at once, and has room again: nothing is lost.

The home lies on a small file system of its own, which only root can mount.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, whole_engine, whose, workbench
from workbench.machine.processes import find_home_processes

pytestmark = pytest.mark.fault
SIZE = 512 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(words, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED, a full disk: no file system can be mounted: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill the disk to its last byte; return the file that does."""
    path = folder / "somebody-elses"
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


@contextmanager
def kept_full(folder: Path) -> Iterator[None]:
    """Fill the disk again and again: trials that find it full remove what they began to write."""
    ended = Event()

    def keep() -> None:
        while not ended.wait(0.001):
            fill(folder)

    thread = Thread(target=keep)
    fill(folder)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_full_disk_is_reported_and_everything_continues_with_room(
    small_disk: Path,
) -> None:
    """First with a reserve file to release, then without: no process can write a byte."""
    config = 'guards = {disk_floor = "64MiB", ballast = "8MiB"}\n'
    with whole_engine(small_disk, config) as it:
        trials = set(it.two_running())
        with it.unharmed(told=r"the disk was full: the reserve file \(.+\) was released"):
            wait_for(it.home.reserve_file.exists, "there is a reserve file", LIMIT_S)
            filling = fill(small_disk)
            wait_for(
                lambda: not it.home.reserve_file.exists(), "the reserve file is released", LIMIT_S
            )

            def refused() -> bool:
                fill(small_disk)  # also what the reserve file and older checkpoints held
                # Something may have given room back since: one that is taken in changes nothing.
                return "No space left" in workbench(it.home, "release").stderr

            wait_for(refused, "a request finds no room", LIMIT_S)
            filling.unlink()
            assert set(it.two_running()) == trials
            assert list(it.home.requests.glob(".*")) == []  # nor a piece of what found no room


def test_a_loop_that_restarts_on_a_full_disk_waits_and_continues_with_room(
    small_disk: Path,
) -> None:
    with whole_engine(small_disk, 'guards = {disk_floor = "16MiB", ballast = "0"}\n') as it:
        it.two_running()
        before = it.live()
        with it.unharmed():
            filling = fill(small_disk)
            it.kill(it.pid("loop"))
            told = lambda: "is full" in it.service.engine().detail  # noqa: E731
            wait_for(told, "the status names the full disk", LIMIT_S)
            fill(small_disk)
            assert it.service.engine().state == "starting"
            filling.unlink()
            it.until_later_attempts(before)
        assert not it.service.engine().braked


def test_watch_waits_out_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """It follows an engine that cannot write, says so, and ends with the experiment."""
    watched = tmp_path / "watched"  # on another disk, as a log file or a terminal is
    with whole_engine(small_disk, 'guards = {disk_floor = "16MiB", ballast = "0"}\n') as it:
        it.two_running()
        before = it.live()
        with (
            watched.open("w") as out,
            subprocess.Popen(
                [sys.executable, "-m", "workbench", "watch"],
                env={**os.environ, "WORKBENCH_HOME": str(it.home.root)},
                stdout=out,
                stderr=subprocess.STDOUT,
            ) as watching,
        ):
            wait_for(lambda: "step" in watched.read_text(), "it follows", LIMIT_S)
            filling = fill(small_disk)
            it.kill(it.pid("loop"))
            # The loop may find room enough to come up, and then starts nothing.
            told = re.compile("is full|nothing new starts")
            wait_for(lambda: told.search(watched.read_text()), "it says so", LIMIT_S)
            filling.unlink()
            it.until_later_attempts(before)
            assert watching.poll() is None, watched.read_text()
            for attempt in before:
                it.obeyed(it.service.stop(attempt.trial))
            assert watching.wait(LIMIT_S) == 0, watched.read_text()
    assert "has ended: 2 stopped" in watched.read_text()


@pytest.mark.parametrize("loop_runs", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_stop_on_a_full_disk_stops_the_engine(loop_runs: bool, small_disk: Path) -> None:
    """No request can be written, whether the loop runs or the keeper waits for room."""
    with whole_engine(small_disk, 'guards = {disk_floor = "16MiB", ballast = "0"}\n') as it:
        it.two_running()
        before = it.live()
        with it.unharmed():
            filling = fill(small_disk)
            if not loop_runs:
                it.kill(it.pid("loop"))
                waits = lambda: "is full" in it.service.engine().detail  # noqa: E731
                wait_for(waits, "the keeper waits for room", LIMIT_S)
            with kept_full(small_disk):
                stopped = workbench(it.home, "engine", "stop")
            assert stopped.returncode == 0, stopped.stderr
            assert "the disk is full" in stopped.stderr
            assert it.service.engine().state == "stopped"
            assert find_home_processes(it.home.root, {}) == []
            filling.unlink()
            it.start()
            it.until_later_attempts(before)


@pytest.mark.parametrize(
    "point",
    ["checkpoint.filled", pytest.param("checkpoint.before_rename", marks=pytest.mark.slow)],
)
def test_a_checkpoint_without_room_is_reported_and_its_trial_continues(
    point: str, whole: Whole
) -> None:
    whole.two_running()
    before = whole.live()
    told = r"trial \d+: the disk was full at step \d+; goes on from step \d+ when there is room"
    with whole.unharmed(told=told):
        whole.arm(f"{point}=no_space")
        victim = whose(whole.fired(), before)
        whole.until_later_attempts([victim])
