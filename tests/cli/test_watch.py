"""An experiment in plain lines, to its end."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.tick_contexts import Bench, recipe
from workbench import formatting
from workbench.cli.trials.follow import follow_experiment, status_line
from workbench.cli.trials.watch import ring_bell
from workbench.home import Home
from workbench.service import Service
from workbench.trial import State


def test_it_tells_the_way_and_the_end_on_stdout(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path))
    said = workbench("watch", "tiny")
    assert said.code == 0
    assert "trial 2  done  score 0.600" in said.out
    end, verdict = said.out.splitlines()[-2:]
    assert end == "tiny has ended: 1 done"
    assert verdict.startswith("trial 2 is the only one with a score: exact match 0.60 [0.")
    assert "\x1b" not in said.out
    assert workbench("watch").out.splitlines()[-1] == said.out.splitlines()[-1]


def test_a_failed_trial_is_its_exit_code(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path), "-s", "train.learning_rate=0.666")
    said = workbench("watch")
    assert said.code == 1
    assert "the loss is NaN" in said.out
    assert said.out.splitlines()[-2:] == [
        "tiny has ended: 1 failed",
        "no verdict: no trial has a score",
    ]


def test_what_is_not_there_is_told(engine: Engine, workbench: Workbench) -> None:
    assert workbench("watch", "nope").code == 3
    assert workbench("watch").code == 3


def test_a_refused_experiment_is_told_with_its_mend(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path, name="refused"))
    said = workbench("watch", "refused")
    assert said.code == 1
    assert "no rows in train\n  → name a file" in said.err


def test_silence_is_broken_by_how_it_stands(
    engine: Engine, workbench: Workbench, home: Home, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path, max_steps=str(10**9)))
    workbench("hold")
    service, lines = Service(home), list[str]()

    def say(line: str) -> None:
        lines.append(line)
        if "tiny: " in line and "step" in line:
            service.stop(2)

    follow_experiment(Service(home), 1, say, beat_s=0.1)
    assert any("tiny: 1 running; trial 2 step" in line for line in lines)


def test_watch_as_json_ends_with_the_board(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path))
    lines = [json.loads(line) for line in workbench("watch", "--json").out.splitlines()]
    assert {line["state"] for line in lines[:-1]} >= {"done"}
    assert lines[-1]["board"][0]["trial"] == 2
    assert lines[-1]["verdict"].startswith("trial 2 is the only one with a score")


def test_a_status_line_is_one_harmless_line(bench: Bench) -> None:
    bench.submit(recipe(name="evil\x1b[2J"))
    bench.until(State.RUNNING, 2)
    experiment = dataclasses.replace(bench.store.experiment(1), held=True)
    line = status_line(experiment, bench.trials(), bench.now)
    assert "evil: 1 running; trial 2 step" in line
    assert " left; " in line or " almost done; " in line
    assert line.endswith("held by a person")
    assert "\n" not in line


def test_the_bell_rings_only_on_a_terminal_and_carries_no_escapes_of_others() -> None:
    file = io.StringIO()
    ring_bell("done", file)
    assert file.getvalue() == ""
    notice = formatting.desktop_notice("a\x07b\x1b]52;c;x\x07c\x9d\n" + "d" * 999)
    assert notice.startswith("\x1b]9;ab")
    assert notice.endswith("\x1b\\\x07")
    assert not set(notice[4:-3]) & {"\x1b", "\x07", "\x9d", "\n"}
    assert len(notice) < 220


@pytest.mark.parametrize("argv", [["watch", "tiny", "--every", "1"]])
def test_leaving_says_that_training_goes_on(bench: Bench, home: Home, argv: list[str]) -> None:
    bench.submit(recipe(train={"max_steps": 900, "learning_rate": 0.1}))
    bench.until(State.RUNNING, 2)
    child = subprocess.Popen(
        [sys.executable, "-m", "workbench", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "training continues" in err
