"""The facts that a machine tells a head that it may join: `workbench cluster probe`.

It answers each line of stdin by one line of JSON, and listens on one of Ray's ports meanwhile, so
that the head can try whether a firewall lets it through.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from workbench.cluster.addresses import address_towards
from workbench.cluster.ray_commands import NODE_PORTS, find_head_port
from workbench.cluster.settings import read_head, read_joined
from workbench.cluster.versions import installed_versions
from workbench.doctor import libraries, machine, probes
from workbench.home import Home
from workbench.machine.locks import lock_holder


def answer_head(home: Home, head: str, asked: TextIO, told: TextIO) -> None:
    """Answer `facts` and `clock` until stdin ends."""
    answers: dict[str, Callable[[], Any]] = {
        "facts": lambda: gather_facts(home, head),
        "clock": time.time,
    }
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # a node of Ray listens there already
            door.bind(("0.0.0.0", NODE_PORTS[0]))
            door.listen()
        for line in asked:
            print(json.dumps(answers[line.strip()]()), file=told, flush=True)


def gather_facts(home: Home, head: str) -> dict[str, Any]:
    """Return the facts, among them this machine's own checks; takes as long as the driver."""
    sample = libraries.reading_from(probes.probe_cards(os.environ))
    joined = read_joined(home)
    checks = [
        machine.check_home(home),
        machine.check_packages(),
        machine.check_temp(),
        machine.check_disk(home),
        libraries.check_driver(sample),
    ]
    return {
        "versions": installed_versions(),
        "python_file": sys.executable,
        "hostname": socket.gethostname().partition(".")[0],
        "address": _address(head),
        "head_port": find_head_port(head, 3.0),
        "checks": [asdict(check) for check in checks],
        "cards": [one.card.name for one in sample.cards],
        "joined": asdict(joined) if joined is not None else None,
        "has_engine": read_head(home) is not None
        or (joined is None and lock_holder(home.keeper_lock) is not None),
        "token_sha256": _token_sha256(home),
    }


def _address(head: str) -> str:
    try:
        return address_towards(head)
    except OSError:  # no route
        return ""


def _token_sha256(home: Home) -> str:
    try:
        return hashlib.sha256(home.token.read_bytes().strip()).hexdigest()
    except OSError:
        return ""
