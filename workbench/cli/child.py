"""Child processes for slow work: a child may import torch, the command itself may not."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.machine.python_children import python_environment

LEAVE_S = 30.0
"""Seconds that the child may take to write a checkpoint after ctrl-c."""


@dataclass(frozen=True, slots=True)
class ChildResult:
    """The outcome of a child process that has ended."""

    code: int
    """The exit code in a shell's convention: 130 after ctrl-c."""
    stdout: str


def run_child(command: Sequence[str]) -> int:
    """Run the command on our terminal, where ctrl-c reaches it too, and return its exit code."""
    return _wait(subprocess.Popen(command, text=True, env=python_environment())).code


def ask_child(command: Sequence[str]) -> ChildResult:
    """Run the command with its stderr on our terminal, and return its stdout and exit code."""
    return _wait(
        subprocess.Popen(
            command,
            env=python_environment(),
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    )


def _wait(child: subprocess.Popen[str]) -> ChildResult:
    """Wait for the child to end; after ctrl-c, for at most LEAVE_S seconds."""
    try:
        stdout = child.communicate()[0]
    except KeyboardInterrupt:
        try:
            child.wait(LEAVE_S)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            child.kill()
            child.wait()
        raise
    interrupted = child.returncode in (-signal.SIGINT, 130)
    code = 130 if interrupted else 1 if child.returncode < 0 else child.returncode
    return ChildResult(code, stdout or "")
