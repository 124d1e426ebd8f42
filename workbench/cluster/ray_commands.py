"""The command lines of Ray on a head and on a box, and the ports that both listen on.

Every port asks for the token. Ray binds most of them to all addresses of the machine (2.60 knows
loopback or all, nothing between), so `cluster up` refuses a machine with a public address.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from workbench.machine.python_children import python_command

HEAD_PORTS = (20_100, 20_101)
"""A new head takes the one that the last head did not have: where a head comes back on its old
port, drivers and nodes of the old one find it, and neither die nor work."""
_PORTS = {
    "node-manager-port": 20_102,
    "object-manager-port": 20_103,
    "runtime-env-agent-port": 20_104,
    "dashboard-agent-listen-port": 20_105,
    "dashboard-agent-grpc-port": 20_106,
    "metrics-export-port": 20_107,
}
NODE_PORTS = (_PORTS["node-manager-port"], _PORTS["object-manager-port"])
"""Ports of each machine on which every other one calls it, besides those of workers."""
CLIENT_PORT = 20_108
WORKER_PORTS = (20_110, 20_199)
"""One for each worker, for each box's agent and for the loop."""
ALL_PORTS = (HEAD_PORTS[0], WORKER_PORTS[1])
"""First and last port of a cluster, for a firewall."""
USUAL = {
    "num-cpus": "2",
    "num-gpus": "0",
    "include-log-monitor": "false",
    "object-store-memory": str(128 << 20),
    "log-style": "record",
    "log-color": "false",
}
"""Options of every head and node, of a cluster or of one machine."""
_COMMON = {
    **USUAL,
    "min-worker-port": str(WORKER_PORTS[0]),
    "max-worker-port": str(WORKER_PORTS[1]),
    **{name: str(port) for name, port in _PORTS.items()},
}
LOOPBACK_ENV = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of a head that listens on loopback alone."""
CLUSTER_ENV = {
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "10",
}
"""Environment of a cluster's head: a node is given up when ten checks in a row failed. That takes
30 s where its machine refuses connections, and 50 to 80 s where nothing answers; with Ray's own
five checks, a network that is cut for half a minute may cost a node."""
BOX_RESOURCE = "box:"
"""Prefix of the custom resource by which a box's node says its name."""


def cluster_head_command(address: str, port: int, temp: Path) -> list[str]:
    """Return the command line that starts a cluster's head on `address`."""
    options = {
        **_COMMON,
        "node-ip-address": address,
        "port": str(port),
        "ray-client-server-port": str(CLIENT_PORT),
        "temp-dir": str(temp),
    }
    return start_head(options)


def start_head(options: Mapping[str, str]) -> list[str]:
    """Return the command line that starts a head with these options.

    Without the dashboard, and without the autoscaler's process: machines come and go by hand, and
    it delays the start by a second.
    """
    flags = ["--no-monitor", *_flags({**options, "include-dashboard": "false"})]
    return [*_ray(), "start", "--head", "--block", "--disable-usage-stats", *flags]


def node_command(head: str, port: int, address: str, box: str, temp: Path) -> list[str]:
    """Return the command line that starts a box's node and connects it to the head."""
    options = {
        **_COMMON,
        "address": f"{head}:{port}",
        "node-ip-address": address,
        "temp-dir": str(temp),
        "resources": f'{{"{BOX_RESOURCE}{box}": 1}}',
    }
    return [*_ray(), "start", "--block", "--disable-usage-stats", *_flags(options)]


def next_head_port(last: object) -> int:
    """Return the port of a head that follows one on port `last`."""
    return HEAD_PORTS[1] if last == HEAD_PORTS[0] else HEAD_PORTS[0]


def find_head_port(head: str, timeout_s: float = 1.0) -> int | None:
    """Return the port on which a head listens now; None where neither answers."""
    for port in HEAD_PORTS:
        if answers(head, port, timeout_s):
            return port
    return None


def answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Return True where something accepts a TCP connection there."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError:
        return False
    return True


def _ray() -> list[str]:
    return python_command("ray.scripts.scripts")  # the console script may lie elsewhere


def _flags(options: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in options.items()]
