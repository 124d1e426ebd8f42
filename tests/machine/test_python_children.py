"""The environments of our own Python children."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.machine.python_children import (
    bytecode_environment,
    command_environment,
    python_environment,
)

FORBIDS = {"PYTHONDONTWRITEBYTECODE": "yes"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that is installed without its bytecode."""
    file = tmp_path / "lib" / "uncompiled_module.py"
    file.parent.mkdir()
    file.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(file.parent)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    return file


def test_children_keep_bytecode_that_python_may_not_write(tmp_path: Path, module: Path) -> None:
    kept = tmp_path / "bytecode"
    env = {**os.environ, **FORBIDS, "PYTHONPATH": str(module.parent)}
    env.pop("PYTHONPYCACHEPREFIX", None)
    env |= bytecode_environment(kept, env, [module.stem])
    code = f"import {module.stem}"
    subprocess.run([sys.executable, "-c", code], env=python_environment(env), check=True)
    assert [file.name.split(".")[0] for file in kept.rglob("unc*.pyc")] == [module.stem]
    assert not (module.parent / "__pycache__").exists()


def test_a_command_of_the_user_gets_back_what_was_set(tmp_path: Path, module: Path) -> None:
    ours = FORBIDS | bytecode_environment(tmp_path, FORBIDS, [module.stem])
    assert ours != FORBIDS
    assert command_environment(ours) == FORBIDS
    own = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "/own"}
    assert command_environment(own) == own


@pytest.mark.parametrize("env", [{}, {**FORBIDS, "PYTHONPYCACHEPREFIX": "/somewhere"}])
def test_nothing_changes_where_python_keeps_bytecode(
    env: dict[str, str], tmp_path: Path, module: Path
) -> None:
    assert bytecode_environment(tmp_path, env, [module.stem]) == {}


def test_nothing_changes_where_all_modules_came_with_bytecode(tmp_path: Path, module: Path) -> None:
    py_compile.compile(str(module))
    assert bytecode_environment(tmp_path, FORBIDS, [module.stem, "not_installed"]) == {}
