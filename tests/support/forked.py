"""A function in a child of this process, which has its libraries: a new Python imports for seconds.

For loading, preparing and exporting. What trains needs a process of its own: where there is a CUDA
card, torch refuses gradients in a fork.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.support.waiting import wait_for


@dataclass(frozen=True)
class Ended:
    code: int
    """Exit code, or the negative number of the signal that killed the child."""
    out: str
    """The text that the child wrote to stdout and stderr."""


def run_forked(
    work: Callable[[], object], env: Mapping[str, str] | None = None, limit_s: float = 120.0
) -> Ended:
    """Run `work` in a child whose environment has `env` added; an int that it returns is the code.

    An exception gives code 1 and its traceback. Raises AssertionError for a child that does not end
    within `limit_s`, which is killed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        with warnings.catch_warnings():
            # Python 3.12 warns of threads; those of a test process wait without locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            _run(work, env or {}, file.fileno())
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        try:
            wait_for(has_ended, "the end of the forked child", limit_s)
        finally:
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        file.seek(0)
        return Ended(code=ended[0], out=file.read())


def _run(work: Callable[[], object], env: Mapping[str, str], out: int) -> None:
    """Run `work` with stdout and stderr on the descriptor `out`, and end this process."""
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.stdout = sys.stderr = open(out, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.environ.update(env)
        if "torch" in sys.modules:
            # The first use of torch's pool after a fork makes it anew, and two threads that do so
            # at once find none ("Invalid thread pool!"). transformers loads weights by threads.
            sys.modules["torch"].set_num_threads(1)
        result = work()
        code = result if isinstance(result, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
