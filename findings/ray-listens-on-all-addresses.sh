#!/usr/bin/env bash
# ray 2.60.0, seen on 2026-11-29 (Python 3.11, Linux x86_64).
#
# `ray start --head --node-ip-address=ADDRESS` looks as if the node listened on that address. The three ports
# of its control processes (GCS, node manager, object manager) listen on every address of the machine instead,
# with the address of one interface as with 127.0.0.1. With `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0` they listen on
# 127.0.0.1 alone, on Linux too; then no other machine can join. We found no setting between, so a node that
# joins by a private network also answers in a public one, if its machine is in both.
#
# What the workbench does: one machine alone gets the variable, and the listening sockets are looked at
# (workbench/keeper.py); `cluster up` refuses a machine with a public IPv4 address (workbench/cluster/addresses.py).
#
# Passes while that is so; fails if it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ray==2.60.0'
cd "$folder"
venv/bin/python - <<'PY'
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GCS, NODE_MANAGER, OBJECT_MANAGER = CONTROL = 20300, 20302, 20303
PORTS = {"port": GCS, "node-manager-port": NODE_MANAGER, "object-manager-port": OBJECT_MANAGER}
LOOPBACK_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def members(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def addresses(pids: list[int]) -> dict[int, str]:
    """Return the address on which each control port listens, of the sockets that the processes have."""
    inodes = set()
    for pid in pids:
        try:
            inodes |= {os.readlink(link)[8:-1] for link in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and fields[9] in inodes and int(port, 16) in CONTROL:
                last = bytes.fromhex(address)[-4:][::-1]  # an IPv4 address, also inside an IPv6 one
                found[int(port, 16)] = "all" if not int(address, 16) else socket.inet_ntoa(last)
    return found


def end(head: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 10
        for pid in members(head.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while members(head.pid) and time.monotonic() < deadline:
            head.poll()
            time.sleep(0.1)
    head.wait()


def control_addresses(address: str, env: dict[str, str]) -> dict[int, str]:
    """Start a head on the address, and return where its control ports listen."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as temp:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--disable-usage-stats", "--include-dashboard=false", "--num-cpus=1"]
        command += [f"--temp-dir={temp}", f"--node-ip-address={address}"]
        command += [f"--{name}={port}" for name, port in PORTS.items()]
        log = Path(temp) / "head.log"
        with log.open("w") as output:
            head = subprocess.Popen(
                command, start_new_session=True, env=os.environ | env, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + 90
            while len(found := addresses(members(head.pid))) < len(CONTROL):
                assert head.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            return found
        finally:
            end(head)


def own_address() -> str:
    """Return the address of the interface that leads outside; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


for address, env, expected in (
    (own_address(), {}, "all"),
    ("127.0.0.1", {}, "all"),
    ("127.0.0.1", LOOPBACK_ENV, "127.0.0.1"),
):
    found = control_addresses(address, env)
    print(f"--node-ip-address={address:13} {env or ''} listens on", sorted(found.items()))
    assert set(found.values()) == {expected}, "no longer so"
PY
echo "unchanged"
