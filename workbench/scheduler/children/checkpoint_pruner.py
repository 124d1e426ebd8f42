"""Pruning of checkpoints in a child process, which verifies what stays (1 s for each GB)."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from workbench.home import Home
from workbench.machine.python_children import cpu_environment, python_command

MODULE = "workbench.training.checkpoints.prune"


class CheckpointPruner:
    """A runner of at most one pruning process; a tick requests it and never waits."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._child: subprocess.Popen[str] | None = None

    @property
    def busy(self) -> bool:
        return self._child is not None

    def start(self, order: list[int], need_bytes: int) -> None:
        """Free `need_bytes` from these trials, the first one first.

        Raises OSError where no process can be started.
        """
        assert self._child is None
        self._child = subprocess.Popen(
            python_command(MODULE, str(self._home.root / "trials"), str(need_bytes)),
            env=cpu_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order))  # below a pipe's 64 KiB
        self._child.stdin.close()

    def poll(self) -> dict[str, Any] | None:
        """Return the result of the pruning once it has ended; None before.

        An empty result means that the child left none.
        """
        if self._child is None or self._child.poll() is None:
            return None
        child, self._child = self._child, None
        assert child.stdout is not None
        with child.stdout:
            said = child.stdout.read()
        try:
            return dict(json.loads(said))
        except (ValueError, TypeError):
            return {}

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self.poll()
