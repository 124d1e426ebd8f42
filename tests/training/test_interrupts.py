"""Ctrl-c in foreground training and in a merge: words, 130, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.forked_foreground import ForkedForeground
from tests.support.waiting import wait_for
from tests.training.trials import Bench, recipe


class Foreground:
    """Foreground training on one folder again and again, by processes of one that has started."""

    def __init__(self, folder: Path, forked: ForkedForeground) -> None:
        self.folder = folder
        self._forked = forked
        folder.mkdir()
        settings = {"train__max_steps": 12, "train__log_every": 1, "train__save_every": 50}
        answers = {"evaluate__answer_pattern": r"(\d+)", "evaluate__max_new_tokens": 8}
        (folder / "recipe.json").write_text(recipe(**settings, **answers).model_dump_json())

    def run(self, until: str | None, *more: str) -> tuple[int, str, str]:
        """Run until a line begins with `until`, interrupt there; return (code, stdout, stderr)."""
        pid, out, errors = self._forked.start([str(self.folder), *more], os.environ)
        lines = []
        with out, errors:
            for line in out:
                lines.append(line)
                if until is not None and line.startswith(until):
                    os.kill(pid, signal.SIGINT)
                    until = None
            return self._forked.wait(), "".join(lines), errors.read()


@pytest.fixture(scope="module")
def forked() -> Iterator[ForkedForeground]:
    process = ForkedForeground()
    yield process
    process.close()


@pytest.fixture
def foreground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: ForkedForeground
) -> Foreground:
    monkeypatch.setenv("WORKBENCH_CARDS", "cpu:4GiB")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    return Foreground(tmp_path / "trial", forked)


def test_each_step_is_printed_with_its_number_of_all_and_the_time_left(
    foreground: Foreground,
) -> None:
    code, out, errors = foreground.run(None)
    assert code == 0, errors
    steps = [line for line in out.splitlines() if line.startswith("step ") and " loss " in line]
    assert len(steps) == 12
    assert all(f" {n}/12  loss " in line for n, line in enumerate(steps, start=1))
    assert all(line.endswith((" left", " almost done")) for line in steps)
    assert not re.search(r"\de[+-]?\d{2}", out)  # 1.04858e+06


def test_ctrl_c_loses_no_step_and_with_json_every_line_of_stdout_is_an_event(
    foreground: Foreground,
) -> None:
    code, out, errors = foreground.run("step ")
    assert (code, "Traceback" in errors) == (130, False), errors
    assert "the same command with --out" in out + errors
    code, out, errors = foreground.run(None, "--json")
    assert code == 0, errors
    events = [json.loads(line) for line in out.splitlines()]
    assert {"metric", "checkpoint", "score", "adapter", "end"} <= {one["event"] for one in events}
    assert min(one["step"] for one in events if one["event"] == "metric") > 1
    assert "card  cpu-0" in errors


def test_ctrl_c_while_the_process_starts_prints_no_traceback(foreground: Foreground) -> None:
    command = [sys.executable, "-m", "workbench.training.foreground", str(foreground.folder)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{child.pid}/maps")
    wait_for(lambda: "pydantic_core" in maps.read_text(), "it imports")
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert (child.returncode, "Traceback" in errors) == (130, False), errors


def test_ctrl_c_while_merging_writes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "home", recipe(train__max_steps=1))
    bench.run()
    out = tmp_path / "merged"
    command = [sys.executable, "-m", "workbench.export.merge"]
    child = subprocess.Popen(
        [*command, str(bench.trial / "adapter"), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while child.poll() is None and not (tmp_path / ".merged.staging").exists():
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert (child.returncode, errors) == (130, "interrupted: nothing was written\n")
    assert not out.exists()
    assert not (tmp_path / ".merged.staging").exists()
