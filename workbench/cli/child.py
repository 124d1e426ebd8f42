"""Child processes for slow work: a child may import torch, the command itself may not."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer

from workbench.cli.tables import print_note
from workbench.errors import WorkbenchError
from workbench.machine.python_children import (
    cpu_environment,
    python_command,
    python_environment,
)
from workbench.text import safe_line

LEAVE_S = 30.0
"""Seconds after ctrl-c until a child that has not ended is sent SIGTERM, too."""


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
    """Run the command with its stderr on our terminal, and return its stdout and exit code.

    It computes on the CPU: cards belong to the engine.
    """
    return _wait(
        subprocess.Popen(
            command,
            env=cpu_environment(),
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    )


def ask_for_report(module: str, *arguments: str) -> dict[str, Any]:
    """Run one of our modules as ask_child() does, and return the report that it prints last.

    Raises typer.Exit with its exit code where it refuses: the reason is on stderr by then.
    """
    ended = ask_child(python_command(module, *arguments))
    if ended.code:
        raise typer.Exit(ended.code)
    try:
        return dict(json.loads(ended.stdout.strip().splitlines()[-1]))
    except (ValueError, TypeError, IndexError) as broken:
        raise WorkbenchError(f"{module} left no report: {safe_line(ended.stdout)}") from broken


def _wait(child: subprocess.Popen[str]) -> ChildResult:
    """Wait for the child to end; a second ctrl-c kills it."""
    try:
        stdout = child.communicate()[0]
    except KeyboardInterrupt:
        try:
            _leave(child)
        except KeyboardInterrupt:
            child.kill()
            child.wait()
        raise
    interrupted = child.returncode in (-signal.SIGINT, 130)
    code = 130 if interrupted else 1 if child.returncode < 0 else child.returncode
    return ChildResult(code, stdout or "")


def _leave(child: subprocess.Popen[str], patience_s: float = LEAVE_S) -> None:
    """Wait after ctrl-c until the child has ended, however long its checkpoint takes.

    A child that ctrl-c did not reach (it was sent to the command alone) gets SIGTERM in the end. A
    child that writes its checkpoint ignores that; any other ends.
    """
    try:
        child.wait(patience_s)
    except subprocess.TimeoutExpired:
        print_note("waiting for it to end; another ctrl-c kills it")
        child.terminate()
        child.wait()
