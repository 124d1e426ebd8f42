"""The process in which a user's own scorer runs; `sandbox` starts it.

    python -P -m workbench.training.scoring.scorers.scorer_child FILE LIMITS

LIMITS is JSON with memory_bytes, cpu_s and file_bytes. Reads rows from stdin, one JSON list
[question, expected, answer] a line. Writes one JSON line when the file was loaded, {"up": true},
and one for each row: {"score": 0.5}, {"score": null} or, as the last line, {"error": "..."}.
What the scorer prints goes to stderr. This module imports nothing of the workbench but
`machine.processes`, so that it starts quickly.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.machine.processes import die_with_parent

Write = Callable[[dict[str, Any]], None]
MOST_ERROR_CHARACTERS = 500


def main(arguments: list[str]) -> int:
    """Score every row of stdin with the file; return 0 if all were scored, else 1."""
    path, limits = Path(arguments[0]), json.loads(arguments[1])
    die_with_parent()
    sys.dont_write_bytecode = True
    rows = os.fdopen(os.dup(0), encoding="utf-8")
    scores = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # a print of the scorer would stand among the scores

    def write(reply: dict[str, Any]) -> None:
        scores.write(json.dumps(reply) + "\n")
        scores.flush()

    _set_limits(limits)
    try:
        module = _load(path)
        write({"up": module.HIGHER_IS_BETTER})
        for line in rows:
            write({"score": _score(module, json.loads(line))})
    except BaseException as error:  # a scorer may also raise SystemExit
        write({"error": _words(error, path)})
        return 1
    return 0


def _set_limits(limits: dict[str, int]) -> None:
    """Set hard limits, which the scorer cannot raise; no core files are written."""
    # One second more for the hard limit: passing the soft one ends with a signal of its own.
    soft_s = limits["cpu_s"]
    resource.setrlimit(resource.RLIMIT_CPU, (soft_s, soft_s + 1))
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"scorer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not isinstance(getattr(module, "HIGHER_IS_BETTER", None), bool):
        raise ScorerFileError("it must set HIGHER_IS_BETTER to True or False")
    if not callable(getattr(module, "score", None)):
        raise ScorerFileError("it must define score(question, expected, answer)")
    return module


class ScorerFileError(Exception):
    """A scorer's file, or what its function returned, that does not keep to the interface."""


def _score(module: ModuleType, row: list[str]) -> float | None:
    question, expected, answer = row
    value = module.score(question, expected, answer)
    if value is None:
        return None
    number = float(value)  # a bool, or a number of numpy
    if not math.isfinite(number):
        raise ScorerFileError(f"score returned {number}, which is no finite number")
    return number


def _words(error: BaseException, path: Path) -> str:
    """Describe an error with the last line of the scorer's file that was running."""
    if isinstance(error, ScorerFileError):
        return str(error)[:MOST_ERROR_CHARACTERS]
    if isinstance(error, MemoryError):
        return "it needed more memory than it may have"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    where = f" at line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{where}: {error}"[:MOST_ERROR_CHARACTERS]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
