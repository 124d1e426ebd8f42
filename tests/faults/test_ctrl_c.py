"""Ctrl-c at many moments of every command that takes a while, from its first file to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.waiting import wait_for
from workbench.home import Home

pytestmark = pytest.mark.fault

STAGES = (1, 3, 8, 30, 100, 200, 300)
"""Files, folders, processes and sleeps of the command before ctrl-c."""
LOOKING = ("watch",)
LOOKING_TOO = (
    "ls",
    "logs 2 -f",
    "plan {recipe}",
    "check {recipe}",
    "show 2",
    "board",
    "importance",
    "report tiny -o {folder}/report.html",
    "cards",
    "watch --json",
    "engine status",
    "schema",
)
ASKING = ("demo", "chat 3 -p 1+1")
ASKING_TOO = (
    "run {recipe} --watch",
    "evaluate 3 --data {folder}/d.jsonl --watch",
    "train {recipe} -o {folder}/trained",
    "run {recipe}",
    "clone 2 -s train.seed=9",
    "pause tiny",
    "merge 3 -o {folder}/merged",
)


def _with_slow(quick: Sequence[str], slow: Sequence[str]) -> list[Any]:
    return [*quick, *(pytest.param(line, marks=pytest.mark.slow) for line in slow)]


def _interrupt(folder: Path, line: str) -> dict[int, tuple[int, str]]:
    """Return exit code and stderr of the command by stage; none of its processes may stay."""
    came = folder / "came"
    came.mkdir()
    named = line.format(recipe=folder / "tiny.yaml", folder=folder).split()
    stages = ",".join(map(str, STAGES))
    subprocess.run(
        [sys.executable, "-m", "tests.support.interrupted_command", str(came), stages, *named],
        check=True,
        timeout=600,
    )
    assert not list(came.glob("*.left"))
    return {n: (int((came / f"{n}.code").read_text()), _read(came / f"{n}.err")) for n in STAGES}


def _read(path: Path) -> str:
    return path.read_text(errors="replace")


def _check(found: dict[int, tuple[int, str]]) -> None:
    """Check that no stage shows a traceback; the last one names the interrupt, where it came."""
    for stage, (code, said) in found.items():
        assert "Traceback" not in said, (stage, said)
        assert code in (130, 0, 1, 2, 3), (stage, code, said)
    assert found[STAGES[0]][0] == found[STAGES[1]][0] == 130  # no command is that short
    code, said = found[STAGES[-1]]
    assert code != 130 or "interrupted" in said, said


@pytest.mark.parametrize("line", _with_slow(LOOKING, LOOKING_TOO))
def test_a_command_that_looks_leaves_with_words(
    line: str, engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path, max_steps=str(10**9)))
    wait_for(lambda: _states(workbench) == ["running"], "it trains")
    _check(_interrupt(tmp_path, line))
    assert _states(workbench) == ["running"]


@pytest.mark.parametrize("line", _with_slow(ASKING, ASKING_TOO))
def test_a_command_that_asks_for_something_leaves_with_words(
    line: str, engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path, max_steps=str(10**9), sweep="{parameters: {train.seed: [1, 2]}}")
    workbench("run", recipe)
    wait_for(lambda: _states(workbench) == ["running", "running"], "they train")
    workbench("stop", "3")
    wait_for(lambda: "stopped" in _states(workbench), "trial 3 has an adapter")
    _check(_interrupt(tmp_path, line))
    assert _states(workbench)[0] in ("running", "paused", "queued", "starting")


def _states(workbench: Workbench) -> list[str]:
    """Return the states of the first experiment's trials."""
    return [trial["state"] for trial in workbench("ls", "1", "--json").data[0]["trials"]]


def test_the_engine_is_not_left_half_stopped(
    engine: Engine, home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    _check(_interrupt(tmp_path, "engine stop"))
    wait_for(home.stopped.exists, "one of those commands was understood")
