"""Preparation in a child process: no GPU visible, killable, progress and result in files."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.home import Home
from workbench.machine.python_children import cpu_environment, python_command

MODULE = "workbench.training.prepare"
KILLED_LIMIT = 3
"""Times that a killed preparation is started again; after that its experiment is refused."""


BATCH = 16
"""Experiments that one child prepares at most, one after another. Its start takes seconds (it loads
transformers), and rows that are in the cache a fraction of one."""


class Preparer:
    """A runner of one child that prepares some experiments; a tick polls it and never waits."""

    def __init__(self, home: Home, module: str = MODULE) -> None:
        self._home = home
        self._module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._batch: list[int] = []
        """Experiments that the child still has to prepare, in its order."""
        self._killed = 0

    def poll(self, experiment: int, waiting: Sequence[int] = ()) -> dict[str, Any] | None:
        """Return the result of preparing `experiment`; None while it is not there yet.

        A child that is started for it also prepares experiments of `waiting`, whose results are
        asked for next.
        """
        # Asked before the result is looked for: a child writes its result and then ends.
        code = None if self._child is None else self._child.poll()
        if experiment not in self._batch:
            if self._child is None or code is not None:
                self._start([experiment, *waiting][:BATCH])
            return None
        result = self._read_result(experiment)
        if code is None and (result is None or len(self._batch) == 1):
            return None  # the last result is taken when the child has ended
        if result is None:
            assert code is not None
            if code < 0 and self._killed < KILLED_LIMIT:  # by the kernel for memory, or a person
                self._killed += 1
                self._start([experiment])
                return None
            self._batch = [experiment]  # those behind it are started again
            result = {
                "ok": False,
                "error": f"preparation {_end(code)} and left no result",
                "hint": f"see {self._log(experiment)}",
            }
        self._killed = 0
        self._batch = [one for one in self._batch if one != experiment]
        if not self._batch:
            self._child = None
        return result

    def _read_result(self, experiment: int) -> dict[str, Any] | None:
        """Return what the child left for `experiment`: it is replaced whole, so never half."""
        try:
            return dict(json.loads(self._result(experiment).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def _start(self, experiments: list[int]) -> None:
        """Start a child that prepares these experiments, without their earlier results."""
        for each in experiments:
            self._result(each).unlink(missing_ok=True)
        folder, *others = (str(self._home.experiment(each)) for each in experiments)
        then = ["--then", *others] if others else []
        with self._log(experiments[0]).open("ab") as log:
            self._child = subprocess.Popen(
                python_command(self._module, folder, str(self._home.cache), *then),
                env=cpu_environment({**os.environ, "TOKENIZERS_PARALLELISM": "false"}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._batch = experiments

    def _result(self, experiment: int) -> Path:
        return self._home.experiment(experiment) / "prepared.json"

    def _log(self, experiment: int) -> Path:
        return self._home.experiment(experiment) / "prepare.log"

    def cancel(self, experiment: int) -> None:
        """End the preparation of `experiment`, if the child has it: others are started again."""
        if experiment in self._batch:
            self.close()

    def close(self) -> None:
        """End the preparation that runs, if any."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
        self._batch = []


def _end(code: int) -> str:
    if code < 0:
        return f"was killed {KILLED_LIMIT + 1} times (signal {-code}; for its memory?)"
    return f"ended with exit code {code}"
