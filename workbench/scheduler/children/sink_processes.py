"""The processes of sinks: one for each that `config.toml` names, started again when it has ended.

None is waited for: a sink whose server hangs costs a tick the microseconds of a poll.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.home import Home, read_sink_problem
from workbench.machine.files import rotate_log
from workbench.machine.python_children import cpu_environment, python_command
from workbench.user_config import UserConfig

MODULE = "workbench.sinks"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 600.0
"""Seconds before a sink that failed is started again; twice as many after each failure."""
WORKS_S = 60.0
"""Seconds after which a sink that has not failed works."""
END_LIMIT_S = 5.0
"""Seconds for which a stopping engine lets its sinks hand on what is new."""
LOG_LIMIT_BYTES = 1 << 20


@dataclass(slots=True)
class _Process:
    settings: str
    child: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    again_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    said: str = ""
    """The problem that was last reported; empty while it works."""


class SinkProcesses:
    """A runner of the configured sinks; the loop polls it."""

    def __init__(
        self,
        home: Home,
        config: Callable[[], UserConfig],
        clock: Callable[[], float] = time.monotonic,
        module: str = MODULE,
    ) -> None:
        self._home, self._config, self._clock, self._module = home, config, clock, module
        self._processes: dict[str, _Process] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Return the process of each sink that runs now."""
        found = {name: one.child for name, one in self._processes.items()}
        return {name: child.pid for name, child in found.items() if child is not None}

    def look(self) -> list[tuple[str, str]]:
        """Start what is configured, end what no longer is; return new (level, text) for events."""
        wanted = {name: one.model_dump_json() for name, one in self._config().sinks().items()}
        for name in [n for n, one in self._processes.items() if wanted.get(n) != one.settings]:
            _end(self._processes.pop(name), 0.0)
        news = []
        for name, settings in wanted.items():
            process = self._processes.setdefault(name, _Process(settings))
            if (text := self._watch(name, process)) is not None:
                news.append(text)
        return news

    def close(self) -> None:
        """Let the sinks hand on what is new, for END_LIMIT_S at most, and end them."""
        for process in self._processes.values():
            if process.child is not None:
                process.child.terminate()
        until = time.monotonic() + END_LIMIT_S
        for process in self._processes.values():
            _end(process, max(0.0, until - time.monotonic()))
        self._processes.clear()

    def _watch(self, name: str, process: _Process) -> tuple[str, str] | None:
        """Start the sink where it is due; return what to report of it, if anything."""
        now_s = self._clock()
        if process.child is None:
            if now_s >= process.again_s:
                self._start(name, process, now_s)
            return None
        code = process.child.poll()
        if code is None:
            if now_s - process.started_s < WORKS_S:
                return None
            process.pause_s = FIRST_PAUSE_S
            if not process.said:
                return None
            process.said = ""
            return "info", f"trials are logged to {name} again"
        process.child = None
        process.again_s = now_s + process.pause_s
        process.pause_s = min(LONGEST_PAUSE_S, 2 * process.pause_s)
        problem = read_sink_problem(self._home, name) if code == 1 else ("", "")
        text = problem[0] or f"its process ended with {code}, see {self._log(name)}"
        if text == process.said:
            return None
        process.said = text
        hint = f"; {problem[1]}" if problem[1] else ""
        return "warning", f"trials are not logged to {name}: {text}{hint}"

    def _start(self, name: str, process: _Process, now_s: float) -> None:
        """Start the process of a sink; where that fails it is due again after its pause."""
        process.started_s = now_s
        try:
            with rotate_log(self._log(name), LOG_LIMIT_BYTES).open("ab") as out:
                process.child = subprocess.Popen(
                    python_command(self._module, name, str(self._home.root), process.settings),
                    env=cpu_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd="/",
                )
        except OSError:  # no process or no disk to be had
            process.again_s = now_s + process.pause_s

    def _log(self, name: str) -> Path:
        return self._home.logs / f"sink-{name}.log"


def _end(process: _Process, patience_s: float) -> None:
    if process.child is None:
        return
    process.child.terminate()
    try:
        process.child.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.child.kill()
        process.child.wait()
