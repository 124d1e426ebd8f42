"""The keeper of a head: it waits for the cluster's address, and takes another port each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.cluster.ray_commands import HEAD_PORTS
from workbench.cluster.settings import HeadSettings, write_settings
from workbench.home import Home
from workbench.keeper import Keeper
from workbench.machine.locks import Lock


def keeper_of(home: Home) -> Keeper:
    return Keeper(home, Lock(home.keeper_lock))


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
