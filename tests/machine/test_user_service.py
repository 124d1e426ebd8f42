"""The systemd user service: its text, its place, and what systemd itself says of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from workbench.machine import user_service


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of its own, and no systemd that could be changed."""
    folder = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    runtime = tmp_path / "no-bus"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    return folder


def test_installing_writes_the_unit_where_systemd_looks(config: Path) -> None:
    user_service.install_unit("[Unit]\n")
    assert (config / "systemd/user/workbench.service").read_text() == "[Unit]\n"


def test_without_systemctl_the_unit_is_written_and_not_enabled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not user_service.install_unit("[Unit]\n")
    status = user_service.service_status()
    assert (status.installed, status.enabled, status.active) == (True, False, False)


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl is missing")
def test_enabling_works_without_a_running_systemd(tmp_path: Path) -> None:
    assert user_service.install_unit(user_service.unit_text(tmp_path, "/usr/bin/python3"))
    assert user_service.service_status().enabled
    assert not user_service.service_status().active


def test_removing_leaves_nothing(config: Path) -> None:
    user_service.install_unit(user_service.unit_text(config, "/usr/bin/python3"))
    assert user_service.remove_unit()
    assert not [path for path in config.rglob("*") if not path.is_dir()]
    assert not user_service.remove_unit()


def test_a_stopped_engine_is_not_started_at_boot(tmp_path: Path) -> None:
    text = user_service.unit_text(tmp_path, "/usr/bin/python3")
    assert f"ConditionPathExists=!{tmp_path}/stopped\n" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
@pytest.mark.parametrize("name", ["home", "a home with spaces", 'odd %h "quoted" $HOME'])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    python = tmp_path / "bin dir" / "python"
    python.parent.mkdir()
    python.symlink_to("/bin/true")
    unit = tmp_path / user_service.UNIT
    unit.write_text(user_service.unit_text(tmp_path / name, str(python)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if user_service.UNIT in line]
    assert not complaints
    assert done.returncode == 0, done.stderr
