"""Keeper, loop and locks without Ray: they keep their promises when something else fails."""

import errno
import fcntl
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.engine import STOP_LIMIT_S, Patience, is_survivable
from workbench.errors import EngineError
from workbench.home import Home
from workbench.keeper import Keeper
from workbench.machine.locks import Lock, lock_holder
from workbench.machine.processes import (
    KEEPER,
    MARK,
    boot_id,
    end_home_processes,
    end_unit,
    find_home_processes,
    identify_process,
    is_frozen,
    program_name,
)
from workbench.scheduler.children.preparer import KILLED_LIMIT, Preparer
from workbench.service import Service
from workbench.store import Store
from workbench.training.checkpoints import checkpoint


def kept(folder: Path) -> Keeper:
    home = Home(folder / "home").make()
    lock = Lock(home.keeper_lock)
    assert lock.take()
    return Keeper(home, lock)


def test_a_lock_that_somebody_only_looked_at_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    looking = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [looking]).start()
    assert Lock(path).take()


def test_a_lock_whose_file_was_removed_no_longer_stands(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert lock.take()
    assert lock.stands()
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").touch()
    assert not lock.stands()


def test_a_keeper_whose_home_was_removed_ends(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    keeper.home.keeper_lock.unlink()
    keeper.run()
    assert not keeper.home.runtime.exists()


@pytest.mark.parametrize("text", ["[]", "null", "{", '{"head": {"pid": "x"}}', '{"unit": 7}'])
def test_a_damaged_runtime_file_does_not_stop_a_keeper(tmp_path: Path, text: str) -> None:
    keeper = kept(tmp_path)
    keeper.home.runtime.write_text(text)
    keeper._end_leftovers()


def test_a_temp_folder_that_is_too_long_is_reported_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("a-folder-of-a-batch-system-" * 3)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setenv("TMPDIR", str(deep))
    service = Service(Home(tmp_path / "home"))
    service.start_engine()
    with pytest.raises(EngineError, match="too long for Ray's sockets") as refused:
        service.wait_for_engine(running=True, timeout_s=60)
    assert "set TMPDIR" in refused.value.hint
    with pytest.raises(EngineError, match="too long for Ray's sockets") as unanswered:
        service.wait_for_answer(service.pause(1))
    assert "set TMPDIR" in unanswered.value.hint
    assert lock_holder(service.home.keeper_lock) is None


def test_an_engine_that_has_ended_does_not_run_while_its_keeper_ends_ray(tmp_path: Path) -> None:
    keeper = kept(tmp_path)
    keeper.home.stopped.write_text("the temp folder is too long\nset TMPDIR")
    service = Service(keeper.home)
    assert service.engine().state == "stopping"
    with pytest.raises(EngineError, match="did not start within"):
        service.wait_for_engine(running=True, timeout_s=0.1)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["{python}", "-m", "http.server", "--help"], "http.server"),
        (["{python}", "-u", "{script}", "now"], "a_script"),
        (["sleep", "60"], "sleep"),
    ],
)
def test_a_process_is_named_by_what_it_runs(tmp_path: Path, words: list[str], name: str) -> None:
    script = tmp_path / "a_script.py"
    script.write_text("input()")
    words = [word.format(python=sys.executable, script=script) for word in words]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: program_name(process.pid) == name, f"it is called {name}")
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: is_frozen(process.pid), "it is frozen")
    finally:
        process.kill()
        process.communicate()
    assert program_name(process.pid) == ""


@contextmanager
def orphan_without_mark(env: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a session's leader and the pid of its child, which has lost what its environment said.

    So does a process that overwrote its environment, or that the kernel is taking down.
    """
    child = "exec env -i sleep 60 & echo $!"
    leader = subprocess.Popen(
        ["sh", "-c", f"{child}; read go"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **env},
        text=True,
        start_new_session=True,
    )
    assert leader.stdout is not None
    with leader:
        pid = int(leader.stdout.readline())
        wait_for(lambda: program_name(pid) == "sleep", "the child has lost its environment")
        yield leader, pid


def test_processes_of_a_home_are_found_by_mark_and_by_session(tmp_path: Path) -> None:
    env = {MARK: "test-unit", "WORKBENCH_HOME": str(tmp_path)}
    with orphan_without_mark(env) as (leader, pid):
        known = identify_process(leader.pid)
        assert known is not None
        head = {"pid": known.pid, "started_ticks": known.started_ticks}
        runtime = {"boot": boot_id(), "head": head}
        both = {leader.pid, pid}
        wait_for(lambda: set(find_home_processes(tmp_path, {})) == both, "both are found")
        leader.kill()
        leader.wait()
        assert find_home_processes(tmp_path, {}) == []
        assert find_home_processes(tmp_path, {"boot": "an earlier one", "head": head}) == []
        assert find_home_processes(tmp_path, runtime) == [pid]
        ended, stubborn = end_home_processes(tmp_path, runtime)
        assert (ended, stubborn) == (["sleep"], [])


def test_a_unit_ends_with_what_is_in_its_leaders_sessions() -> None:
    with orphan_without_mark({MARK: "test-unit-of-leaders"}) as (leader, pid):
        known = identify_process(leader.pid)
        assert known is not None
        leader.kill()
        leader.wait()
        assert end_unit("test-unit-of-leaders") == []
        assert identify_process(pid) is not None
        assert end_unit("test-unit-of-leaders", [known]) == []
        assert identify_process(pid) is None


def test_a_process_lives_while_one_of_its_threads_does() -> None:
    exit_thread = {"x86_64": 60, "aarch64": 93}[platform.machine()]  # SYS_exit
    code = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=[60]).start()"
    code += f"; ctypes.CDLL(None).syscall({exit_thread}, 0)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        status = Path(f"/proc/{process.pid}/status")
        wait_for(lambda: "State:\tZ" in status.read_text(), "its first thread has ended")
        assert identify_process(process.pid) is not None
        process.kill()
    assert identify_process(process.pid) is None


def test_a_loop_whose_keeper_died_while_it_was_starting_ends(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    done = subprocess.run(
        [sys.executable, "-m", "workbench.engine"],
        env={
            **os.environ,
            KEEPER: "1",
            "WORKBENCH_HOME": str(home.root),
            "WORKBENCH_RAY": "127.0.0.1:1",
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"the keeper is gone" in done.stderr


def test_stopping_takes_its_time_by_the_monotonic_clock() -> None:
    patience = Patience()
    assert not patience.over(stopping=True, now_s=5.0)
    assert not patience.over(stopping=True, now_s=4.0 + STOP_LIMIT_S)
    assert patience.over(stopping=True, now_s=6.0 + STOP_LIMIT_S)
    assert not patience.over(stopping=False, now_s=7.0 + STOP_LIMIT_S)
    assert not patience.over(stopping=True, now_s=8.0 + STOP_LIMIT_S)


def test_a_full_disk_and_a_held_database_pass_and_a_broken_one_does_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "w.db")
    pages = store.db.execute("pragma page_count").fetchone()[0]
    store.db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError) as full, store.writing():
        for _ in range(100):
            store.note("log", "x" * 4_000)
    with pytest.raises(sqlite3.OperationalError) as broken:
        store.db.execute("select nothing from nowhere")
    store.close()
    assert is_survivable(full.value)
    assert is_survivable(OSError(errno.ENOSPC, "no space"))
    assert not is_survivable(broken.value)
    assert not is_survivable(FileNotFoundError(errno.ENOENT, "gone"))


def test_a_home_under_a_file_is_answered_like_one_that_never_ran(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    service = Service(Home(tmp_path / "file" / "home"))
    assert lock_holder(service.home.keeper_lock) is None
    assert service.snapshot().engine.state == "down"
    assert service.snapshot().trials == []


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (999_975, 1_000_000, 999_950):
        checkpoint.folder_of(tmp_path, step).mkdir()
    checkpoint.remove_old(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-999975", "step-1000000"}


@pytest.mark.parametrize(("kills", "ok"), [(KILLED_LIMIT, True), (KILLED_LIMIT + 1, False)])
def test_a_killed_preparation_is_restarted_a_few_times(
    kills: int, ok: bool, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home").make()
    home.experiment(1).mkdir(parents=True)
    (home.experiment(1) / "kills").write_text(str(kills))
    preparer = Preparer(home, "tests.support.mortal_preparation")
    result = wait_for(lambda: preparer.poll(1), "it is prepared or refused")
    assert result is not None
    assert result["ok"] is ok
    assert ok or "killed 4 times (signal 9" in result["error"]
