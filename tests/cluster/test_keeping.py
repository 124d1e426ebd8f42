"""The keepers of a head and of a box: addresses that are missing or have changed, ports, logs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.cluster.certificates import certificate_environment, make_certificates
from workbench.cluster.ray_commands import HEAD_PORTS
from workbench.cluster.settings import HeadSettings, JoinedSettings, read_joined, write_settings
from workbench.home import Home, private_temp
from workbench.keeper import LOG_LIMIT_BYTES, Keeper
from workbench.machine.locks import Lock, lock_holder
from workbench.node_keeper import NodeKeeper


def keeper_of(home: Home) -> Keeper:
    return Keeper(home, Lock(home.keeper_lock))


START = """
import os, signal, sys
from pathlib import Path
from workbench.home import Home
from workbench.keeper import lock_in_background
os.register_at_fork(after_in_child=signal.pause)  # as on a machine that is busy with others
lock_in_background(Home(Path(sys.argv[1])))
"""


def test_a_keeper_can_be_stopped_as_soon_as_it_was_started(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    subprocess.run([sys.executable, "-c", START, home.root], check=True)
    keeper = lock_holder(home.keeper_lock)
    assert keeper is not None
    assert Path(f"/proc/{keeper}/cmdline").read_bytes().endswith(f"{home.root}\0".encode())
    os.kill(keeper, signal.SIGTERM)
    wait_for(lambda: lock_holder(home.keeper_lock) is None, "the end of the keeper")


@pytest.mark.parametrize(("address", "there"), [("127.0.0.1", True), ("192.0.2.1", False)])
def test_nothing_starts_before_the_address_is_there(
    tmp_path: Path, address: str, there: bool
) -> None:
    home = Home(tmp_path / "home").make()
    write_settings(home, HeadSettings(address=address))
    assert keeper_of(home)._has_address() is there


def test_a_head_alternates_between_its_ports_over_restarts_of_the_keeper(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    write_settings(home, HeadSettings(address="127.0.0.1"))
    assert [keeper_of(home)._next_port() for _ in range(3)] == [*HEAD_PORTS, HEAD_PORTS[0]]


def test_a_heads_environment_lets_a_network_be_cut_for_half_a_minute(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    write_settings(home, HeadSettings(address="127.0.0.1"))
    env = keeper_of(home)._env("unit", 20_100)
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in env
    checks, every_ms, wait_ms = (
        int(env[f"RAY_health_check_{name}"])
        for name in ("failure_threshold", "period_ms", "timeout_ms")
    )
    assert checks * (every_ms + wait_ms) > 60_000
    assert checks * every_ms >= 30_000


def test_one_machine_alone_stays_on_loopback(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    keeper = keeper_of(home)
    assert keeper._next_port()
    env = keeper._env("unit", 21_000)
    assert env["WORKBENCH_RAY"] == "127.0.0.1:21000"
    assert env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert not (home.root / "cluster").exists()


GONE = "192.0.2.77"
"""An address that no machine has (RFC 5737)."""


@pytest.mark.parametrize(
    ("address", "is_fixed", "today"),
    [(GONE, False, "127.0.0.1"), (GONE, True, GONE), ("127.0.0.3", False, "127.0.0.3")],
)
def test_a_box_that_comes_back_under_another_address_is_found_there(
    tmp_path: Path, address: str, is_fixed: bool, today: str
) -> None:
    home = Home(tmp_path / "home").make()
    make_certificates(home, address)
    joined = JoinedSettings(head="127.0.0.1", address=address, box="two", is_fixed=is_fixed)
    write_settings(home, joined)
    now = NodeKeeper(home, Lock(home.keeper_lock))._follow_address(joined)
    assert now == read_joined(home) == replace(joined, address=today)
    words = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in"]
    file = certificate_environment(home)["RAY_TLS_SERVER_CERT"]
    said = subprocess.run([*words, file], capture_output=True, text=True, check=True).stdout
    assert f"IP Address:{today}" in said


def test_what_a_node_says_is_read_also_where_its_log_was_too_long(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    (home.logs / "node.log").write_bytes(bytes(LOG_LIMIT_BYTES + 1))
    keeper = NodeKeeper(home, Lock(home.keeper_lock))
    says = [sys.executable, "-c", "print('Ray runtime started')"]
    assert keeper._spawn_node(says, dict(os.environ)).wait() == 0
    assert keeper._new_log() == "Ray runtime started\n"


def test_a_start_that_is_refused_leaves_no_session_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home = Home(tmp_path / "home").make()
    home.logs.rmdir()
    home.logs.write_text("a file where the folder of logs has to be")
    (home.kernels / "triton-0.0-torch-0.0" / "one").mkdir(parents=True)
    descriptors = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="logs"):
        keeper_of(home)._start_unit()
    joined = JoinedSettings(head="127.0.0.1", address="127.0.0.1", box="two")
    with pytest.raises(OSError, match="logs"):
        NodeKeeper(home, Lock(home.keeper_lock))._start_node(joined, port=20_100)
    assert not list(private_temp().iterdir())
    assert not list(home.kernels.iterdir())  # a box has no engine that prunes them
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
