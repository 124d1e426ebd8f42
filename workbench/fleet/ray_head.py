"""The Ray head as the keeper starts it: command line, port, and session folder.

Nothing here imports ray. The keeper calls it, and tests that start a head of their own.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
from contextlib import suppress
from pathlib import Path

from workbench.cluster.ray_commands import USUAL, start_head
from workbench.home import RAY_TEMP_CHARACTERS, private_temp

PORTS = range(20_000, 30_000)  # above Ray's worker ports (10002–19999), below the ephemeral ones


def head_command(port: int, temp: Path) -> list[str]:
    """Return the command line that starts a Ray head on loopback with `temp` as session folder."""
    return start_head({"port": str(port), "temp-dir": str(temp), **USUAL})


def temp_problem() -> str:
    """Return why Ray cannot work in the temp folder; an empty string where it can."""
    characters = len(str(session_folder("00000-00")))
    if characters <= RAY_TEMP_CHARACTERS:
        return ""
    return (
        f"the temp folder {private_temp()} is too long for Ray's sockets: it makes paths of "
        f"{characters} characters, and {RAY_TEMP_CHARACTERS} fit"
    )


def session_folder(unit: str) -> Path:
    """Return the session folder of a unit's head, in the user's private temp folder.

    Its name has 9 characters, because the paths of Ray's sockets are limited.
    """
    return private_temp() / f"r{unit[:8]}"


def free_port() -> int:
    """Return a port that is free now, outside Ray's worker ports and the ephemeral ones. OSError
    where none of 200 tries was free.
    """
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 30000")


def keep_from_cleaners(folder: Path) -> int:
    """Lock the folder, which systemd-tmpfiles then leaves alone; return the open descriptor."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def remove_session_folder(temp: object) -> None:
    """Remove a head's session folder; never one that is not the workbench's own."""
    if temp and Path(str(temp)).parent == private_temp():
        shutil.rmtree(str(temp), ignore_errors=True)
