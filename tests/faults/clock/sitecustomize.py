"""A wall clock that a test can set: `time.time()` is off by the seconds in the file FAULTS_CLOCK.

Python imports this by itself in every process that has this folder in PYTHONPATH. Files and the
monotonic clock keep the true time, as they do where somebody sets a machine's clock.
"""

import os
import time
from typing import Any

_true = time.time
_file = os.environ.get("FAULTS_CLOCK", "")


def _off() -> float:
    try:
        with open(_file) as told:
            return float(told.read() or 0)
    except OSError:
        return 0.0


def _time(*_: Any) -> float:
    return _true() + _off()


if _file:
    time.time = _time
