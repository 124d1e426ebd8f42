"""No Python file of the working directory runs as code, from whichever point we start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from tests.support.whole import whole_engine
from workbench.machine.python_children import (
    SAFE_PATH,
    command_environment,
    python_command,
    python_environment,
)
from workbench.recipe.shipped import PACKAGE

CONSOLE = [str(Path(sys.executable).with_name("workbench"))]
MODULE = [sys.executable, "-m", "workbench"]
# Modules of the standard library and of our dependencies that something imports sooner or later.
NAMES = (
    *("random", "typing", "json", "logging", "secrets", "statistics", "tempfile", "queue", "uuid"),
    *("yaml", "typer", "pydantic", "platformdirs", "torch", "numpy", "ray", "transformers", "peft"),
    *("datasets", "tokenizers", "accelerate", "bitsandbytes", "optuna", "textual", "pynvml", "tui"),
)
RECIPE = """\
name: beside
model: {name: 'workbench:demo/model'}
data: {train: 'workbench:demo/data/train.jsonl', max_rows: 16, eval_rows: 2,
       columns: {question: prompt, answer: completion}}
train: {max_steps: 2, warmup: 0, batch_size: 2}
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a recipe and, beside it, files that mark it when they are imported."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'RAN')!r}, 'a').write('{name} ')\n")
    return folder


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    home = str(folder.with_name("home"))
    surroundings = {"WORKBENCH_HOME": home, "HF_HUB_OFFLINE": "1", "WORKBENCH_CARDS": "cpu:4GiB"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **surroundings, **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    marked = folder / "RAN"
    assert not marked.exists(), f"{marked.read_text()}were imported from the working directory"
    return done


@pytest.mark.slow  # the same child as of `train` below
@pytest.mark.parametrize("start", [CONSOLE, MODULE], ids=["console", "module"])
def test_check_runs_no_file_beside_the_recipe(hostile: Path, start: list[str]) -> None:
    done = run(hostile, *start, "check", "recipe.yaml")
    assert done.returncode == 0, done.stderr


def test_train_runs_no_file_beside_the_recipe(hostile: Path) -> None:
    trained = run(hostile, *CONSOLE, "train", "recipe.yaml", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    assert list((hostile / "run").rglob("adapter_config.json"))


def test_the_child_of_a_merge_runs_no_file_of_the_folder(hostile: Path) -> None:
    (hostile / "adapter_config.json").write_text("{}")
    merged = run(hostile, *MODULE, "merge", ".", "--out", "merged", "--no-score")
    assert merged.returncode != 0
    assert "adapter_model.safetensors" in merged.stderr, "refused by the child"


@pytest.mark.slow  # the children of the two above, to the end of the second
def test_a_merge_runs_no_file_beside_the_recipe(hostile: Path) -> None:
    trained = run(hostile, *CONSOLE, "train", "recipe.yaml", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    adapter = str(next((hostile / "run").rglob("adapter_config.json")).parent)
    merged = run(hostile, *MODULE, "merge", adapter, "--out", "merged", "--no-score")
    assert merged.returncode == 0, merged.stderr


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["doctor"], marks=pytest.mark.slow),  # imports torch in a child
        *(["cards"], ["plan", "recipe.yaml"], ["recipes"], ["ls"]),
    ],
    ids=" ".join,
)
def test_other_commands_run_no_file_of_the_folder(hostile: Path, words: list[str]) -> None:
    run(hostile, *MODULE, *words)


@pytest.mark.parametrize(
    ("path", "start"),
    [(":/tmp", CONSOLE), ("/tmp:", CONSOLE), (":/tmp", MODULE), ("::/tmp", MODULE)],
    ids=["first, console", "last, console", "first, module", "twice, module"],
)
def test_an_empty_entry_of_pythonpath_is_not_the_folder(
    hostile: Path, path: str, start: list[str]
) -> None:
    done = run(hostile, *start, "recipes", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [":/tmp", "/tmp:", "/tmp::/usr"])
def test_an_empty_entry_of_pythonpath_is_not_the_folder_in_a_child(
    hostile: Path, path: str
) -> None:
    done = subprocess.run(
        python_command("workbench.machine.sampler", "--once"),
        cwd=hostile,
        env=python_environment({**os.environ, "PYTHONPATH": path, "WORKBENCH_CARDS": "cpu:4GiB"}),
        check=False,
    )
    assert done.returncode == 0
    assert not (hostile / "RAN").exists()


def test_grandchildren_and_spawned_processes_are_safe_too(hostile: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "from multiprocessing import get_context\n"
        "print(sys.flags.safe_path)\n"
        "if __name__ == '__main__':\n"
        "    subprocess.run([sys.executable, '-c', 'import random'], check=True)\n"
        "    child = get_context('spawn').Process(target=print)\n"
        "    child.start(); child.join()\n"
    )
    script = hostile.with_name("grandchildren.py")
    script.write_text(code)
    subprocess.run([sys.executable, str(script)], cwd=hostile, env=python_environment(), check=True)
    assert not (hostile / "RAN").exists()


def test_a_users_own_command_keeps_its_own_import_path() -> None:
    assert SAFE_PATH not in command_environment(python_environment({}))
    kept = command_environment(python_environment({SAFE_PATH: "1"}))
    assert kept == {SAFE_PATH: "1"}, "set by the user"


def test_every_python_child_gets_its_command_from_one_place() -> None:
    """A new child that is started by hand would bring the fault back."""
    allowed = {
        "machine/python_children.py",  # the place
        "doctor/probes.py",  # runs code with -P -c
        "doctor/machine.py",  # only shows the path
        "doctor/box_facts.py",  # the same
        "cli/machine/service.py",  # for a unit text with -P
    }
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\bsys\.executable\b", path.read_text())
    }
    assert found == allowed


@pytest.mark.fault
def test_an_engine_started_in_the_folder_runs_none_of_its_files(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeper, head, loop, sampler, preparation, worker and notification all start below here."""
    monkeypatch.chdir(hostile)
    done = hostile.with_name("notified")
    with whole_engine(tmp_path, f'[notify]\ncommand = ["touch", "{done}"]\n') as whole:
        run(hostile, *MODULE, "run", "recipe.yaml", WORKBENCH_HOME=str(whole.home.root))
        wait_for(done.exists, "the notification ran", 240)
    assert not (hostile / "RAN").exists()
