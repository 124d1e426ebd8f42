"""The process of one sink: `python -m workbench.sinks NAME HOME SETTINGS`.

It ends with 0 when the engine's loop asks it to (SIGTERM), and with the loop. When the sink fails,
it writes the reason into a file that the loop and `workbench doctor` read, and ends with 1; the
loop starts it again later.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from workbench.errors import EngineError, WorkbenchError
from workbench.home import Home
from workbench.machine.files import write_durably
from workbench.machine.locks import Lock
from workbench.machine.processes import die_with_parent
from workbench.sinks.follower import Follower, follow
from workbench.sinks.run import Sink
from workbench.text import safe_line
from workbench.text.redact import redact

NICENESS = 10
"""Training and the engine's loop go first."""


def main(arguments: list[str]) -> int:
    """Follow the home until SIGTERM; return the exit code."""
    name, home, settings = arguments[0], Home(Path(arguments[1])), json.loads(arguments[2])
    die_with_parent()
    os.nice(NICENESS)
    os.umask(0o077)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    home.sinks.mkdir(exist_ok=True)
    problem = home.sink_problem(name)
    try:
        lock = Lock(home.sinks / f"{name}.lock")
        if not lock.take():
            raise EngineError(f"another process writes to {name} for this home")
        follower = Follower(home, make_sink(name, home, settings), home.sinks / f"{name}.json")
        follower.look()
        problem.unlink(missing_ok=True)
        follow(follower, stop.wait)
    except Exception as failed:
        write_durably(problem, "\n".join(describe_failure(name, failed)).encode())
        return 1
    return 0


def make_sink(name: str, home: Home, settings: dict[str, Any]) -> Sink:
    """Return the sink of that name; raises ImportError where its package is missing."""
    if name == "tensorboard":
        from workbench.sinks.tensorboard import TensorBoard

        return TensorBoard(Path(settings["folder"] or home.sinks / "tensorboard"))
    if name == "trackio":
        from workbench.sinks.trackio import Trackio

        return Trackio(settings["project"], settings["space"])
    from workbench.sinks.wandb import WandB

    return WandB(**settings, folder=home.sinks)


def describe_failure(name: str, failed: Exception) -> tuple[str, str]:
    """Return why nothing is logged to the sink now, and what a person can do."""
    if isinstance(failed, ImportError) and (failed.name or "").split(".")[0] == name:
        return f"{name} is not installed", f"pip install 'qlora-workbench[{name}]'"
    hint = failed.hint if isinstance(failed, WorkbenchError) else ""
    what = failed.what if isinstance(failed, WorkbenchError) else str(failed)
    return safe_line(redact(what or type(failed).__name__), 300), safe_line(hint, 300)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
