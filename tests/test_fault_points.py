"""Named fault points: what they are called, where they stand, and who falls."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from workbench import fault_points
from workbench.errors import UsageError
from workbench.home import Home
from workbench.service import Service

ROOT = Path(fault_points.__file__).parent
POINT = "worker.step"


def test_every_point_stands_once_and_where_it_is_said_to_stand() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for path in ROOT.rglob("*.py"):
        if path.name != "fault_points.py":
            for point in re.findall(r"\bfault_points\.at\(\"([^\"]+)\"", path.read_text()):
                found[point, path.relative_to(ROOT).as_posix()] += 1
    assert found == Counter(fault_points.POINTS.items())


def test_nothing_happens_unarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(fault_points.VARIABLE, raising=False)
    fault_points.at(POINT)


@pytest.mark.parametrize("told", ["worker.stop=kill", "worker.step=explode", "worker.step=kill@x"])
def test_what_makes_no_sense_is_refused_before_an_engine_starts(
    told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(fault_points.VARIABLE, told)
    with pytest.raises(UsageError, match="WORKBENCH_FAULT") as refused:
        Service(Home(tmp_path / "home")).start_engine()
    assert "one of" in refused.value.hint


def test_a_point_that_is_not_in_the_list_is_refused_where_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(fault_points.VARIABLE, "worker.step=kill@1000")
    with pytest.raises(UsageError, match="not among the points"):
        fault_points.at("worker.stop")


def test_it_comes_at_the_passage_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fault_points.VARIABLE, "worker.loading=hang, worker.step=no_space@3")
    fault_points.at(POINT)
    fault_points.at(POINT)
    with pytest.raises(OSError, match="space") as full:
        fault_points.at(POINT)
    assert full.value.errno == errno.ENOSPC
    fault_points.at(POINT)


def test_a_file_is_cut_in_half(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(100))
    monkeypatch.setenv(fault_points.VARIABLE, "checkpoint.filled=truncate")
    fault_points.at("checkpoint.filled", tmp_path / "weights")
    assert (tmp_path / "weights").stat().st_size == 50


def _arm_by_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: str) -> Path:
    """Return the file that arms POINT with the action."""
    armed = tmp_path / "fault"
    armed.write_text(f"{POINT}={action}")
    monkeypatch.setenv(fault_points.VARIABLE, str(armed))
    return armed


def test_another_thread_that_reads_the_file_meanwhile_reads_what_was_armed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with _arm_by_a_file(monkeypatch, tmp_path, "raise").open() as reading:
        with pytest.raises(fault_points.InjectedFault):
            fault_points.at(POINT)
        assert fault_points.parse_faults(reading.read()) == {POINT: ("raise", 1)}
    assert [path.name for path in tmp_path.iterdir()] == ["fault.fired"]


def test_a_hold_that_nobody_ends_fails_in_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _arm_by_a_file(monkeypatch, tmp_path, "hold")
    monkeypatch.setattr(fault_points, "HOLD_LIMIT_S", 0.0)
    with pytest.raises(fault_points.InjectedFault, match="was not removed"):
        fault_points.at(POINT)


def test_of_several_processes_one_falls_and_its_successor_is_spared(tmp_path: Path) -> None:
    armed = tmp_path / "fault"
    passing = f"fault_points.at('{POINT}')"
    code = f"from workbench import fault_points; {passing}; {passing}"

    def run() -> int:
        env = {**os.environ, fault_points.VARIABLE: str(armed)}
        return subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode

    assert run() == 0
    armed.write_text(f"{POINT}=kill@2")
    assert [run(), run()] == [-signal.SIGKILL, 0]
    assert not armed.exists()
    assert (tmp_path / "fault.fired").read_text().startswith(POINT)
