"""Slow work in a child process, which may import torch; this one may not."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

LEAVE_S = 30.0
"""After ctrl-c the child may write a checkpoint for so long."""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    """As a shell would say it: 130 after ctrl-c."""
    stdout: str


def run_child(command: Sequence[str]) -> int:
    """Run it on our terminal, ctrl-c included; its exit code."""
    return _wait(subprocess.Popen(command, text=True)).code


def ask_child(command: Sequence[str]) -> Ended:
    """Run it with its stderr on our terminal and its stdout as the answer."""
    return _wait(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace"))


def _wait(child: subprocess.Popen[str]) -> Ended:
    """Until it has ended; a ctrl-c reached it too, so it is given time to leave by itself."""
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
    return Ended(code, stdout or "")
