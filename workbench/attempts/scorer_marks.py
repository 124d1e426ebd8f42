"""Marks of scorers that are running, in the trial's folder.

A user's own scorer can end the worker that started it. The worker writes a mark before the scorer
starts and removes it afterwards, so the mark of an attempt that was lost says that the worker ended
meanwhile. The next attempt counts such losses, and the scheduler blames neither card nor trial.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.machine.files import write_durably

LOSS_LIMIT = 2
"""Workers that ended while a scorer ran, after which the trial does without this scorer."""
_FOLDER = "scorers-running"


def count_losses(trial: Path, scorer: str) -> int:
    """Return how many workers ended while `scorer` ran for the trial with the folder `trial`."""
    return _read(_mark(trial, scorer))[0]


def running_scorers(trial: Path, attempt: int) -> list[str]:
    """Return the scorers that `attempt` was running when its worker ended, sorted by name."""
    marks = sorted((trial / _FOLDER).glob("*"))
    return [mark.name for mark in marks if _read(mark)[1] == attempt]


@contextmanager
def scorer_mark(trial: Path, attempt: int, scorer: str) -> Iterator[None]:
    """Keep a mark while the block runs; it stays only where this process ends inside the block."""
    path = _mark(trial, scorer)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Counted as a loss now, because nothing can be written once the process was killed.
    found = {"losses": _read(path)[0] + 1, "attempt": attempt}
    write_durably(path, json.dumps(found).encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _mark(trial: Path, scorer: str) -> Path:
    return trial / _FOLDER / scorer


def _read(path: Path) -> tuple[int, int]:
    """Return losses and attempt of a mark; zeros where there is none or none that can be read."""
    try:
        found = json.loads(path.read_bytes())
        return int(found["losses"]), int(found["attempt"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0, 0
