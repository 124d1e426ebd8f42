"""The watch on a Ray head, on processes that only bear the names of Ray's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.machine.head_watch import FROZEN_S, SCAN_EVERY_S, SETTLED_S, HeadWatch
from workbench.machine.processes import (
    find_listeners,
    find_session,
    identify_process,
    program_name,
    read_stat,
)

# The head leads a group. Its raylet has an agent in that group, and a worker in one of its own.
WORKER_S = f"92.{os.getpid()}"
"""Seconds that the worker sleeps: this test process's own number, by which it is found again."""
CONTROL_SERVICE = """
import signal, socket
port = socket.create_server(("127.0.0.1", 0))
signal.signal(signal.SIGTERM, lambda *_: port.close())
while True: signal.pause()
"""
"""A process that closes its port on SIGTERM and stays, as Ray's does for seconds."""
HEAD = f"""
(exec -a gcs_server {sys.executable} -IS -c '{CONTROL_SERVICE}') &
bash -c 'sleep 91 & setsid sleep {WORKER_S} & exec -a raylet sleep 93' &
wait
"""
ESSENTIAL = {"gcs_server", "raylet", "sleep"}
"""Names of the processes that the head above cannot do without; `sleep` stands for an agent."""


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def head() -> Iterator[int]:
    process = subprocess.Popen(["bash", "-c", HEAD], start_new_session=True)
    known = identify_process(process.pid)
    assert known is not None
    yield process.pid
    workers = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_ours(pid)]
    for pid in [*find_session(known), *workers]:
        with suppress(ProcessLookupError):  # one may end by itself when its parent does
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _is_ours(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() == f"sleep\0{WORKER_S}\0".encode()
    except OSError:
        return False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(head: int, tmp_path: Path, clock: Clock) -> HeadWatch:
    """A watch that knows raylet, control service and agent, all of them settled."""
    made = HeadWatch(head, tmp_path, clock)

    def complete() -> bool:
        # A shell has its own name until it becomes the program, so names are read before a scan.
        named = {program_name(one.pid) for one in made.identities()} == ESSENTIAL
        clock.now_s += SCAN_EVERY_S
        assert made.trouble() == ""
        return named and len(made.identities()) == len(ESSENTIAL)

    wait_for(complete, "three processes are known by their names")
    clock.now_s += SETTLED_S
    return made


def pid_of(watch: HeadWatch, name: str) -> int:
    return next(one.pid for one in watch.identities() if program_name(one.pid) == name)


def freeze_process(pid: int) -> None:
    """Stop a process and wait until it stands: the signal takes a moment."""
    os.kill(pid, signal.SIGSTOP)

    def stands() -> bool:
        stat = read_stat(pid)
        return stat is not None and stat.state in "Tt"

    wait_for(stands, "the process stands")


def test_while_all_is_well_there_is_no_trouble(watch: HeadWatch, clock: Clock) -> None:
    for _ in range(5):
        clock.now_s += SCAN_EVERY_S
        assert watch.trouble() == ""
    assert len(watch.identities()) == 3  # the worker, in a group of its own, is none of them


@pytest.mark.parametrize("name", sorted(ESSENTIAL))
def test_the_end_of_each_essential_process_is_trouble(watch: HeadWatch, name: str) -> None:
    os.kill(pid_of(watch, name), signal.SIGKILL)
    assert wait_for(watch.trouble, "it is noticed") == f"Ray's {name} ended"


def test_a_control_service_that_closes_its_port_and_lives_on_is_trouble(
    watch: HeadWatch, clock: Clock
) -> None:
    pid = pid_of(watch, "gcs_server")
    wait_for(lambda: find_listeners([pid]), "it listens")
    clock.now_s += SCAN_EVERY_S
    assert watch.trouble() == ""
    os.kill(pid, signal.SIGTERM)

    def noticed() -> str:
        clock.now_s += SCAN_EVERY_S
        return watch.trouble()

    assert wait_for(noticed, "it is noticed") == "Ray's gcs_server closed its port"
    assert identify_process(pid) is not None


def test_a_frozen_process_is_trouble_after_a_while(watch: HeadWatch, clock: Clock) -> None:
    freeze_process(pid_of(watch, "raylet"))
    assert watch.trouble() == ""
    clock.now_s += FROZEN_S + 1
    assert "raylet has been stopped" in wait_for(watch.trouble, "it is noticed")


def test_a_process_that_goes_on_in_time_is_none(watch: HeadWatch, clock: Clock) -> None:
    pid = pid_of(watch, "raylet")
    freeze_process(pid)
    watch.trouble()
    clock.now_s += FROZEN_S - 1
    os.kill(pid, signal.SIGCONT)
    assert watch.trouble() == ""
    clock.now_s += FROZEN_S
    assert watch.trouble() == ""


def test_a_session_folder_that_was_removed_is_trouble(
    watch: HeadWatch, clock: Clock, tmp_path: Path
) -> None:
    session = tmp_path / "session_2026-11-28"
    (session / "logs").mkdir(parents=True)
    (session / "sockets").mkdir()
    (session / "sockets" / "raylet").touch()
    clock.now_s += SCAN_EVERY_S
    assert watch.trouble() == ""
    shutil.rmtree(session)
    clock.now_s += SCAN_EVERY_S
    assert "session folder lost session_2026-11-28" in watch.trouble()
