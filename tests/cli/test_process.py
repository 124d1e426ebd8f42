"""The command as a shell sees it: a fresh process, its streams, signals and exit codes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters.folders import PEFT, write_adapter
from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.tick_contexts import Bench, recipe
from workbench.home import Home

COMMAND = [sys.executable, "-m", "workbench"]
HEAVY = "{'torch', 'ray', 'transformers', 'textual', 'yaml', 'rich', 'datasets'}"


def _run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *argv],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_terminal_the_short_help_comes_and_exit_code_two(home: Home) -> None:
    said = _run()
    assert (said.returncode, said.stdout) == (2, "")
    assert "workbench demo" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_listing_starts_without_heavy_imports(home: Home) -> None:
    script = f"""
import sys
from workbench.cli import main
assert main(["ls"]) == 0
print(sorted({HEAVY} & set(sys.modules)))
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert said.stdout == "[]\n"


def test_a_reader_that_leaves_early_is_no_drama(bench: Bench, home: Home) -> None:
    bench.submit(recipe())
    read, write = os.pipe()
    os.close(read)
    said = subprocess.run(
        [*COMMAND, "ls", "--json"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (said.returncode, said.stderr) == (1, "")


INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
sys.argv = ["workbench", "ls"]
runpy.run_module("workbench", run_name="__main__")
"""


def test_ctrl_c_while_a_command_starts_prints_no_traceback(home: Home) -> None:
    said = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True, timeout=60
    )
    assert (said.returncode, said.stdout, said.stderr) == (130, "", "")


# Other commands, at many moments: tests/faults/test_ctrl_c.py.
def test_ctrl_c_leaves_a_command_that_follows(
    engine: Engine, home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path, max_steps=str(10**9)))
    with subprocess.Popen(
        [*COMMAND, "logs", "2", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline()
        command.send_signal(signal.SIGINT)
        command.stdout.read()
        assert "Traceback" not in command.stderr.read()
    assert command.returncode == 130
    assert workbench("ls", "--json").data[0]["trials"][0]["state"] not in ("stopped", "failed")


def test_ctrl_c_leaves_the_watch_and_the_training_alone(
    engine: Engine, home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    path = recipe_file(tmp_path, max_steps=str(10**9))
    with subprocess.Popen(
        [*COMMAND, "run", str(path), "--watch"], stderr=subprocess.PIPE, text=True, stdout=-3
    ) as watch:
        assert watch.stderr is not None
        first = watch.stderr.readline()
        watch.send_signal(signal.SIGINT)
        rest = watch.stderr.read()
    assert watch.returncode == 130
    assert first.strip()  # of a trial, or of the data being checked
    assert "training continues" in rest
    assert "Traceback" not in rest
    assert workbench("ls", "--json").data[0]["trials"][0]["state"] not in ("stopped", "failed")


def test_logs_follow_until_the_trial_ends(
    engine: Engine, home: Home, workbench: Workbench, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path, max_steps=str(10**9)))
    with subprocess.Popen(
        [*COMMAND, "logs", "2", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as logs:
        assert logs.stdout is not None
        assert logs.stderr is not None
        first = logs.stdout.readline()
        assert workbench("stop", "2").code == 0
        rest, told = logs.stdout.read(), logs.stderr.read()
    assert first
    assert "Traceback" not in rest
    assert logs.returncode == 0
    assert told.startswith("trial 2 is stopped")


def test_a_narrow_plain_terminal_gets_plain_ascii_safe_output(home: Home) -> None:
    said = _run("recipes", COLUMNS="60", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert said.returncode == 0
    assert max(len(line) for line in said.stdout.splitlines()) <= 60


def test_the_schema_is_json(workbench: Workbench) -> None:
    assert "lora" in workbench("schema").data["properties"]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("status", "workbench engine status"),
        ("queue", "workbench ls"),
        ("help", "workbench --help"),
        ("version", "workbench --version"),
    ],
)
def test_a_word_for_another_command_gets_its_name(
    word: str, hint: str, workbench: Workbench
) -> None:
    said = workbench(word)
    assert said.code == 2
    assert hint in said.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion_script(shell: str, workbench: Workbench) -> None:
    assert "_WORKBENCH_COMPLETE" in workbench("completion", shell).out


ASKED_BY = {
    "bash": {"COMP_WORDS": "workbench imp", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "workbench imp"},
    "fish": {
        "_TYPER_COMPLETE_ARGS": "workbench imp",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
}


@pytest.mark.parametrize("shell", ASKED_BY)
def test_a_shells_script_gets_completions_in_its_own_format(shell: str, home: Home) -> None:
    said = _run(_WORKBENCH_COMPLETE=f"complete_{shell}", **ASKED_BY[shell])
    assert (said.returncode, said.stderr) == (0, "")
    words = {
        "bash": "importance\n",
        "zsh": '"importance":"Show how',
        "fish": "importance\tShow how",
    }
    assert words[shell] in said.stdout


COMPLETES = {
    "bash": "source {script}; COMP_WORDS=(workbench run --wat) COMP_CWORD=2; "
    "_workbench_completion workbench; echo ${{COMPREPLY[@]}}",
    "zsh": "autoload -Uz compinit; compinit -u -D; source {script}; "
    "_arguments() {{ echo $@ }}; words=(workbench run --wat) CURRENT=3; ${{_comps[workbench]}}",
    "fish": "source {script}; complete -C 'workbench run --wat'",
}
"""Commands by which each shell completes `workbench run --wat`, as tab does."""


@pytest.mark.parametrize("shell", COMPLETES)
def test_the_script_works_in_the_shell_itself(
    shell: str, workbench: Workbench, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing")
    script = tmp_path / "completion"
    script.write_text(workbench("completion", shell).out)
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "workbench").write_text(f'#!/bin/sh\nexec {sys.executable} -m workbench "$@"\n')
    (bin / "workbench").chmod(0o755)
    said = subprocess.run(
        [shell, "-c", COMPLETES[shell].format(script=script)],
        env={**os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--watch" in said.stdout, said.stderr


def test_a_child_refuses_a_weight_below_0_by_its_name(home: Home, tmp_path: Path) -> None:
    folders = [str(write_adapter(tmp_path / name, PEFT)) for name in ("a", "b")]
    said = _run("soup", *folders, "-o", str(tmp_path / "out"), "--weights", "-1,2")
    assert said.returncode == 2
    assert "-1.0, 2.0 are no weights" in said.stderr
    assert "none below 0" in said.stderr
