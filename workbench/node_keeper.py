"""The keeper of a box that has joined a cluster: keeps its Ray node alive, and samples its cards.

It connects again whenever the head is back, on whichever of the head's two ports. Where the home
has joined a cluster, `workbench.keeper` becomes this program, so that `workbench service` needs to
know nothing of it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from workbench.cluster.addresses import address_towards, is_ours, parse_address
from workbench.cluster.certificates import certificate_environment, make_certificates
from workbench.cluster.ray_commands import HEAD_PORTS, answers, find_head_port, node_command
from workbench.cluster.settings import (
    JoinedSettings,
    note_state,
    read_joined,
    work_folder,
    write_settings,
)
from workbench.errors import EngineError
from workbench.fleet.kernel_cache import prune_kernels
from workbench.home import find_home
from workbench.keeper import WATCH_S, Keeper, Unit, lock_in_background
from workbench.machine.head_watch import HeadWatch
from workbench.machine.processes import find_marked, identify_process, is_alive, program_name
from workbench.text.redact import log_without_secrets

FAREWELL_S = 3.0
"""Seconds in which a node that leaves tells the head so."""
HEAD_EVERY_S = 3.0
"""Seconds between two looks at whether the head has come back on its other port."""
PER_SESSION = ("attempts", "trials", "experiments", "evaluations", "scorers")
"""Folders of a box's work that belong to one head's session; the cache of bases and rows stays."""
REFUSALS = {
    "InvalidAuthToken": "the head refuses the token",
    "AuthenticationError": "the head refuses the token",
    "Version mismatch": "Ray or Python differs from the head's",
}
"""Signs in the node's log, each with words for a person."""

log = logging.getLogger("workbench.node_keeper")


class NodeKeeper(Keeper):
    """The supervisor of one box's Ray node and card sampler."""

    def _run_unit(self) -> str:
        """Wait for the head, start a node, and block until it ends; return the reason."""
        joined = read_joined(self.home)
        if joined is None:
            return "stopped"
        port = find_head_port(joined.head)
        if port is None:
            self.sampler.keep()
            note_state(self.home, "joining", f"the head {joined.head} does not answer")
            time.sleep(1.0)
            self.crashes.clear()  # a head that is away is nobody's crash: look again at once
            return "the head does not answer"
        try:
            joined = self._follow_address(joined)
            unit = self._start_node(joined, port)
        except (OSError, EngineError) as refused:
            note_state(self.home, "refused", f"the node could not be started: {refused}")
            return f"the node could not be started: {refused}"
        why = self._watch_node(unit, joined, port)
        log.info("node %s ends: %s", unit.name, why)
        self._end_unit(unit)
        if not self.ending:
            note_state(self.home, "refused" if why in REFUSALS.values() else "joining", why)
        return why

    def _follow_address(self, joined: JoinedSettings) -> JoinedSettings:
        """Return the settings with this machine's address of today, and keep them.

        With certificates it gets one for that address. Raises OSError, and EngineError without
        openssl.
        """
        if not _has_moved(joined):
            return joined
        today = replace(joined, address=address_towards(joined.head))
        log.info("this machine's address is %s, and was %s", today.address, joined.address)
        if certificate_environment(self.home):
            make_certificates(self.home, today.address)
        write_settings(self.home, today)
        return today

    def _start_node(self, joined: JoinedSettings, port: int) -> Unit:
        name = f"{port}-{secrets.token_hex(4)}"
        with self._session(name) as temp:
            return self._start_node_in(temp, name, joined, port)

    def _start_node_in(self, temp: Path, name: str, joined: JoinedSettings, port: int) -> Unit:
        prune_kernels(self.home)
        for folder in PER_SESSION:
            shutil.rmtree(work_folder(self.home) / folder, ignore_errors=True)
        work_folder(self.home).mkdir(mode=0o700, parents=True, exist_ok=True)
        env = {**self._env(name, port), "CUDA_VISIBLE_DEVICES": ""}
        env.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", None)
        command = node_command(joined.head, port, joined.address, joined.box, temp)
        node = self._spawn_node(command, env)
        self._note_runtime(unit=name, port=port, temp=str(temp))
        log.info("node %s: process %d, head %s:%d", name, node.pid, joined.head, port)
        return Unit(name, node, node, temp, HeadWatch(node.pid, temp), time.monotonic())

    def _spawn_node(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        self._log_from = _size(self._log_file("node"))  # what follows is this node's
        return self._spawn("node", command, env)

    def _watch_node(self, unit: Unit, joined: JoinedSettings, port: int) -> str:
        """Block while all is well; return the reason why the node has to end."""
        other = HEAD_PORTS[1] if port == HEAD_PORTS[0] else HEAD_PORTS[0]
        is_in, looked_s = False, time.monotonic()
        while not self.ending:
            if not self.lock.stands():
                self.ending = True
                break
            self.sampler.keep()
            if unit.head.poll() is not None:
                return self._why_ended(unit.head.returncode)
            if lost := unit.watch.trouble():
                return lost
            if not is_in and "Ray runtime started" in self._new_log():
                is_in = True
                note_state(self.home, "joined", f"{joined.head}:{port}")
            if time.monotonic() - looked_s > HEAD_EVERY_S:
                looked_s = time.monotonic()
                if answers(joined.head, other) and not answers(joined.head, port):
                    return "the head was started again"
                # Without a network the address is missing, too; then it may come back.
                if _has_moved(joined) and answers(joined.head, port):
                    return "this machine's address has changed"
            time.sleep(WATCH_S)
        return "the keeper was told to end"

    def _end_unit(self, unit: Unit) -> None:
        """End the node; it tells the head first, which otherwise waits for it for a minute."""
        raylets = [pid for pid in find_marked(unit.name) if program_name(pid) == "raylet"]
        for raylet in filter(None, map(identify_process, raylets)):
            with suppress(ProcessLookupError):
                os.kill(raylet.pid, signal.SIGTERM)
            until = time.monotonic() + FAREWELL_S
            while is_alive(raylet) and time.monotonic() < until:
                time.sleep(0.05)
        super()._end_unit(unit)

    def _why_ended(self, code: int) -> str:
        text = self._new_log()
        found = next((words for sign, words in REFUSALS.items() if sign in text), "")
        return found or f"Ray's node exited with {code}"

    def _new_log(self) -> str:
        """Return what the node has written since its start."""
        with (self.home.logs / "node.log").open("rb") as file:
            file.seek(self._log_from)
            return file.read(1 << 20).decode(errors="replace")


def _has_moved(joined: JoinedSettings) -> bool:
    """Return True where the machine no longer has the address at which the head looks for it."""
    return not joined.is_fixed and not is_ours(parse_address(joined.address))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def main() -> int:
    """Start a node's keeper in the background; return at once where another keeps the home."""
    log_without_secrets("%(asctime)s %(levelname)s %(message)s")
    home = find_home().make()
    lock = lock_in_background(home)
    if lock is None:
        return 0
    log.info("keeper %d of the box at %s", os.getpid(), home.root)
    NodeKeeper(home, lock).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
