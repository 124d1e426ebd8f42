"""Run a command within a time limit: `python -m workbench.notification HOME SECONDS COMMAND …`.

It is a process of its own, so that neither a command that hangs nor the statistics of the verdict
hold up the engine. The command's output is logged without secrets and terminal escapes; `curl -v`,
for example, prints tokens.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from workbench.home import Home
from workbench.machine.files import rotate_log
from workbench.machine.python_children import command_environment
from workbench.service import Service
from workbench.text import safe_line, safe_text
from workbench.text.redact import redact

LOG_LIMIT_BYTES, KEPT_BYTES = 1 << 20, 1 << 16


def main(arguments: list[str]) -> int:
    """Run the command and append its output to the log, which is rotated at LOG_LIMIT_BYTES.

    The command reads what is on stdin, with the verdict added. Returns the command's exit code,
    124 if it exceeded the limit, 127 if it could not be started.
    """
    home, limit_s, command = Home(Path(arguments[0])), float(arguments[1]), arguments[2:]
    log = home.logs / "notify.log"
    with suppress(OSError):
        rotate_log(log, LOG_LIMIT_BYTES)
    # A file and not a pipe: a grandchild that keeps a pipe open would keep us waiting.
    with _file_in(log.parent) as said, _file_in(log.parent) as body:
        body.write(redact(json.dumps(add_verdict(home, json.load(sys.stdin)))).encode())
        body.seek(0)
        code = _run(command, limit_s, body.fileno(), said.fileno())
        said.seek(0)
        told = safe_text(said.read(KEPT_BYTES).decode(errors="replace"), KEPT_BYTES).rstrip("\n")
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    end = f"{stamp} {safe_line(repr(command[0]))} ended with {code}"
    with suppress(OSError), log.open("a", encoding="utf-8", errors="replace") as out:
        out.write(f"{told}\n{end}\n" if told else f"{end}\n")
    return code


def _file_in(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def add_verdict(home: Home, data: dict[str, Any]) -> dict[str, Any]:
    """Return the notification with `verdict`, a text that ends in it, and a board with intervals.

    A verdict that cannot be had must not cost the notification: it is then empty, and the rest of
    the data stays as it is.
    """
    if data["state"] == "refused":
        return {**data, "verdict": ""}
    try:
        board = Service(home).judged_board(int(data["experiment"]))
    except Exception as broken:
        return {**data, "verdict": "", "verdict_error": safe_line(broken)}
    text = f"{data['text']}; {board.verdict}"
    rows = [asdict(row) for row in board.rows]
    return {**data, "text": text, "verdict": board.verdict, "board": rows}


def _run(command: list[str], limit_s: float, body: int, out: int) -> int:
    try:
        # A session of its own, so that the deadline can end the command with all its children.
        child = subprocess.Popen(
            command,
            stdin=body,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=command_environment(),
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
