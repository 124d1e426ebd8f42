"""Run a command within a time limit: `python -m workbench.notification LOG SECONDS COMMAND …`.

It is a process of its own, so that a command that hangs does not block the engine. The command's
output is logged without secrets and terminal escapes; `curl -v`, for example, prints tokens.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from workbench.machine.python_children import command_environment
from workbench.text import safe_line, safe_text

LOG_LIMIT_BYTES, KEPT_BYTES = 1 << 20, 1 << 16


def main(arguments: list[str]) -> int:
    """Run the command and append its output to the log, which is rotated at LOG_LIMIT_BYTES.

    Returns the command's exit code, 124 if it exceeded the limit, 127 if it could not be started.
    """
    log, limit_s, command = Path(arguments[0]), float(arguments[1]), arguments[2:]
    with suppress(OSError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            log.rename(log.with_suffix(".log.1"))
    # A file and not a pipe: a grandchild that keeps a pipe open would keep us waiting.
    with tempfile.TemporaryFile(dir=log.parent) as said:
        code = _run(command, limit_s, said.fileno())
        said.seek(0)
        told = safe_text(said.read(KEPT_BYTES).decode(errors="replace"), KEPT_BYTES).rstrip("\n")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    end = f"{stamp} {safe_line(repr(command[0]))} ended with {code}"
    with suppress(OSError), log.open("a", encoding="utf-8", errors="replace") as out:
        out.write(f"{told}\n{end}\n" if told else f"{end}\n")
    return code


def _run(command: list[str], limit_s: float, out: int) -> int:
    try:
        # A session of its own, so that the deadline can end the command with all its children.
        child = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=command_environment()
        )
    except (OSError, ValueError) as refused:
        os.write(out, f"it could not be started: {refused}\n".encode(errors="replace"))
        return 127
    try:
        return abs(child.wait(limit_s))
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return 124


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
