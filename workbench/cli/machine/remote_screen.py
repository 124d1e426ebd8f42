"""`workbench --host USER@BOX`: the screen of another machine, drawn there and shown over ssh."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from workbench.cli.machine.ssh import NOT_CONNECTED, NOT_FOUND, split_host
from workbench.errors import UsageError


def open_remote_screen(host: str, options: Sequence[str]) -> int:
    """Show the screen of `host` with the given options; return its exit code once it was left.

    `host` is `USER@BOX`, as ssh takes it, with its keys and its configuration; `USER@BOX:/FILE`
    where the command `workbench` is not on the other machine's PATH. Raises UsageError for a host
    that ssh would take for an option, where there is no ssh, and where the other machine has no
    such command.
    """
    box, file = split_host(host, "--host")
    command = shlex.join([file, *options])
    # -t: the screen needs a terminal, which ssh leaves out where it is given a command.
    code = subprocess.run(["ssh", "-t", "--", box, command], check=False).returncode
    if code == NOT_FOUND:
        raise UsageError(
            f"{box} does not find {file}",
            hint=f"name the file: --host {box}:/home/you/workbench/.venv/bin/workbench",
        )
    if code == NOT_CONNECTED:  # ssh has printed why
        raise UsageError(f"no connection to {box}", hint=f"try ssh {box} by itself")
    return code
