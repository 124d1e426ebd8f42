"""The user's notification command: run in a child when an experiment ends, the board on stdin.

The child adds the verdict, because its statistics take longer than a tick may.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from typing import IO, Any

from workbench.home import Home
from workbench.machine.python_children import python_command, python_environment
from workbench.text.redact import redact

AT_ONCE = 4
"""Commands that may run at one time; the next experiment's end waits for one of them."""
LIMIT_S = 60.0
"""Seconds after which a command is killed."""


class Notifier:
    """A starter of notification commands; the child `workbench.notification` keeps time and log."""

    def __init__(
        self, home: Home, command: Callable[[], list[str] | None], limit_s: float = LIMIT_S
    ) -> None:
        self._home, self._command, self._limit_s = home, command, limit_s
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._failed: list[str] = []

    @property
    def busy(self) -> bool:
        return len(self._running) >= AT_ONCE

    def ready(self, name: str, data: dict[str, Any]) -> Callable[[], None]:
        """Return a function that starts the user's command, which does nothing where none is set.

        `data` is the command's input, to which the child adds the verdict. Raises OSError when it
        cannot be written to a temporary file.
        """
        command = self._command()
        if not command:
            return lambda: None
        body = tempfile.TemporaryFile(dir=self._home.root)  # noqa: SIM115 (closed by `run`)
        body.write(redact(json.dumps(data)).encode())
        body.seek(0)
        home, limit = str(self._home.root), str(self._limit_s)

        def run() -> None:
            with body:
                self._start(name, body, [home, limit, *command])

        return run

    def _start(self, name: str, body: IO[bytes], arguments: list[str]) -> None:
        """Start the child with `body` as its input; it counts as failed where that fails."""
        try:
            child = subprocess.Popen(
                python_command("workbench.notification", *arguments),
                env=python_environment(
                    {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
                ),
                stdin=body,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError):  # no process to be had; a NUL in its words
            self._failed.append(name)
        else:
            self._running.append((name, child))

    def failed(self) -> list[str]:
        """Return the names of experiments whose command has failed since the last call."""
        ended = [(name, child) for name, child in self._running if child.poll() is not None]
        self._running = [one for one in self._running if one not in ended]
        failed, self._failed = self._failed, []
        return failed + [name for name, child in ended if child.returncode != 0]
