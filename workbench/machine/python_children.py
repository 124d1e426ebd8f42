"""Command lines and environments of our own Python children.

`python -m` puts the working directory first on the import path, so a `random.py` beside a user's
recipe would run as code. Every child that we start therefore gets the command and the environment
from here: both switch safe paths on, for the child and for whatever it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import cache_from_source, find_spec
from pathlib import Path

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable that switches safe paths on in every Python below (Python 3.11)."""
NO_BYTECODE, BYTECODE_FOLDER = "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"
"""Python's variables: write no compiled modules (an empty value counts as none), and where to."""
ASKED = "WORKBENCH_NO_BYTECODE"
"""The variable in which the first of them is kept while it is not followed."""
SLOW_MODULES = ("torch", "transformers", "peft")
"""Packages of thousands of modules, which children import."""
OURS = "workbench"
"""The value that we set; Python only asks whether there is any."""


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` in this Python, without the working directory."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a Python child: `env`, or ours, with safe paths.

    Empty entries of PYTHONPATH are dropped: they mean the working directory, and are left behind by
    `export PYTHONPATH=$PYTHONPATH:/x`.
    """
    found = {**(os.environ if env is None else env)}
    found[SAFE_PATH] = found.get(SAFE_PATH) or OURS
    if "PYTHONPATH" in found:
        found["PYTHONPATH"] = os.pathsep.join(filter(None, found["PYTHONPATH"].split(os.pathsep)))
    return found


def bytecode_environment(
    folder: Path, env: Mapping[str, str], modules: Sequence[str] = SLOW_MODULES
) -> dict[str, str]:
    """Return variables by which children keep compiled modules in `folder`; none without need.

    There is need where one of the modules was installed without its bytecode and `env` forbids
    to write it, as in many containers: each process would then compile thousands of modules anew,
    which takes three quarters of its imports.
    """
    if not env.get(NO_BYTECODE) or env.get(BYTECODE_FOLDER):
        return {}
    found = (spec.origin for name in modules if (spec := find_spec(name)) and spec.origin)
    if all(Path(cache_from_source(origin)).exists() for origin in found):
        return {}
    return {NO_BYTECODE: "", BYTECODE_FOLDER: str(folder), ASKED: env[NO_BYTECODE]}


def cpu_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a Python child that computes on the CPU: it sees no GPU.

    A library that opens a CUDA context takes 0.7 GB of a card, which the engine would then leave
    alone as one that another program uses.
    """
    return python_environment(env) | {"CUDA_VISIBLE_DEVICES": ""}


def command_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a user's own command: `env`, or ours, without what we added.

    A user's Python script may import its neighbours.
    """
    found = {**(os.environ if env is None else env)}
    if found.get(SAFE_PATH) == OURS:
        del found[SAFE_PATH]
    if (asked := found.pop(ASKED, None)) is not None:
        found[NO_BYTECODE] = asked
        found.pop(BYTECODE_FOLDER, None)
    return found
