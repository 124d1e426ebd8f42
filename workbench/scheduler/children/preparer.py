"""Preparation in a child process: no GPU visible, killable, progress and result in files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from workbench.home import Home
from workbench.machine.python_children import python_command, python_environment

MODULE = "workbench.training.prepare"
KILLED_LIMIT = 3
"""Times that a killed preparation is started again; after that its experiment is refused."""


class Preparer:
    """A runner of at most one preparation; a tick polls it and never waits."""

    def __init__(self, home: Home, module: str = MODULE) -> None:
        self._home = home
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._experiment: int | None = None
        self._killed = 0

    @property
    def busy(self) -> bool:
        return self._child is not None

    def poll(self, experiment: int) -> dict[str, Any] | None:
        """Return the result of preparing `experiment`; None while it runs or waits for another."""
        if self._child is None:
            self._start(experiment)
            return None
        if self._experiment != experiment or self._child.poll() is None:
            return None
        code, self._child = self._child.returncode, None
        if code < 0 and self._killed < KILLED_LIMIT:  # by the kernel for memory, or by a person
            self._killed += 1
            self._start(experiment)
            return None
        self._killed = 0
        try:
            result = json.loads(self._result(experiment).read_text())
            return dict(result)
        except (OSError, ValueError, TypeError):
            return {
                "ok": False,
                "error": f"preparation {_end(code)} and left no result",
                "hint": f"see {self._log(experiment)}",
            }

    def _start(self, experiment: int) -> None:
        folder = self._home.experiment(experiment)
        self._result(experiment).unlink(missing_ok=True)
        with self._log(experiment).open("ab") as log:
            self._child = subprocess.Popen(
                python_command(self._module, str(folder), str(self._home.cache)),
                env=python_environment(
                    {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._experiment = experiment

    def _result(self, experiment: int) -> Path:
        return self._home.experiment(experiment) / "prepared.json"

    def _log(self, experiment: int) -> Path:
        return self._home.experiment(experiment) / "prepare.log"

    def cancel(self, experiment: int) -> None:
        """End the preparation of `experiment`, if it is the one that runs."""
        if self._experiment == experiment:
            self.close()

    def close(self) -> None:
        """End the preparation that runs, if any."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _end(code: int) -> str:
    if code < 0:
        return f"was killed {KILLED_LIMIT + 1} times (signal {-code}; for its memory?)"
    return f"ended with exit code {code}"
