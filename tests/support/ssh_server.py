"""A real sshd for tests, on an address of this machine, with keys of its own.

`there` is the environment of the commands that it runs: another home, so that one machine stands
for two. The folder's `ssh` is the command ssh with a configuration in which `HOST` is that server.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import wait_for
from workbench.fleet.ray_head import free_port

HOST = "attic"


@contextmanager
def ssh_server(
    folder: Path,
    there: Mapping[str, str],
    *,
    address: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
) -> Iterator[None]:
    """Run the server, in `inside` (as of `ip netns exec`) if that is given; skip without one."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or shutil.which("ssh-keygen") is None:
        pytest.skip("OpenSSH's server is not installed")
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    port = free_port()
    _write_settings(folder, there, address, port)
    if os.getuid() == 0:  # where sshd, as root, gives up its rights; a service makes it elsewhere
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with (folder / "log").open("wb") as log:
        words = [*inside, server, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(lambda: listens(folder, process), "sshd listens")
        yield
    finally:
        process.terminate()
        process.wait()


def listens(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    said = (folder / "log").read_text()
    assert process.poll() is None, said
    return "Server listening" in said


def _write_settings(folder: Path, there: Mapping[str, str], address: str, port: int) -> None:
    variables = " ".join(f'"{name}={value}"' for name, value in there.items())
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    server = {
        "ListenAddress": f"{address}:{port}",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "SetEnv": variables,
    }
    client = {
        "HostName": address,
        "Port": port,
        "User": getpass.getuser(),
        "IdentityFile": folder / "user",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": folder / "known",
        "LogLevel": "ERROR",
    }
    (folder / "sshd_config").write_text(_lines(server))
    (folder / "config").write_text(f"Host {HOST}\n{_lines(client)}")
    command = folder / "ssh"
    real = shutil.which("ssh")
    command.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {folder}/asked\nexec {real} -F {folder}/config "$@"\n'
    )
    command.chmod(0o755)


def _lines(options: Mapping[str, object]) -> str:
    return "".join(f"{name} {value}\n" for name, value in options.items())
