"""A Ray head for tests, started as the keeper starts its own, and ended for certain."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.fleet.ray_head import free_port, head_command
from workbench.machine.processes import MARK, end_unit


@contextmanager
def ray_head() -> Iterator[str]:
    """Yield the address of a head; the driver's token is set in this process's environment
    meanwhile.
    """
    unit, port = f"test-{secrets.token_hex(4)}", free_port()
    temp = Path(tempfile.mkdtemp(prefix="wbt-"))
    token = temp / "token"
    token.write_text(secrets.token_hex(32))
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    os.environ.update(env)
    with (temp / "head.log").open("wb") as log:
        head = subprocess.Popen(
            head_command(port, temp / "r"),
            env={**os.environ, MARK: unit},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        end_unit(unit)
        head.wait()
        shutil.rmtree(temp, ignore_errors=True)
