"""A watch on one Ray head from outside Ray: its essential processes and its session folder.

Ray itself reports neither. When an agent ends, the raylet follows, and `ray start --block` takes
that for an orderly end: head and control service stay, and no worker ever starts again. A control
service that is told to end by SIGTERM closes its port and exits seconds later. When a cleaner
empties the temp folder, running workers go on, and no new one can connect. The keeper calls
`trouble`; only /proc and the folder are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from workbench.machine.processes import (
    Identity,
    ProcessStat,
    find_listeners,
    program_name,
    read_stat,
)

SCAN_EVERY_S = 1.0
"""Seconds between two scans for new processes and missing folders (1 to 3 ms each)."""
AGAIN_S = 0.3
"""Seconds until a closed port is looked at once more."""
SETTLED_S = 2.0
"""Seconds for which a child of the raylet must have been seen before its end counts: between fork
and exec a starting worker looks like one of Ray's own processes."""
FROZEN_S = 30.0
"""Seconds for which an essential process may be stopped (SIGSTOP, a debugger)."""
SERVERS = ("gcs_server", "raylet")


class HeadWatch:
    """The essential processes of a head, learned as they come up, and its session folder."""

    def __init__(
        self, head: int, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._head = head
        self._folder = folder
        self._clock = clock
        self._known: dict[Identity, tuple[str, float]] = {}
        """Each essential process with its name and the time from which its end counts."""
        self._frozen: dict[Identity, float] = {}
        """Stopped processes with the time at which that was seen first."""
        self._listening: dict[Identity, bool] = {}
        """Control services that were seen to listen, and whether they did so at the last scan."""
        self._places: list[Path] = []
        """Folders and sockets that a new worker needs, once they were seen."""
        self._scanned_s = float("-inf")

    def identities(self) -> list[Identity]:
        """Return the essential processes that are known now."""
        return list(self._known)

    def trouble(self) -> str:
        """Return why this head can start no more workers; an empty string while it can.

        Costs about 0.1 ms, and 1 to 3 ms once a second.
        """
        now = self._clock()
        for identity, (name, counts_from_s) in list(self._known.items()):
            stat = read_stat(identity.pid)
            if stat is None or stat.identity != identity:
                if now >= counts_from_s:
                    return f"Ray's {name} ended"
                del self._known[identity]
            elif stat.group != self._head:  # a worker, first seen before it had left the group
                del self._known[identity]
            elif self._frozen_s(stat, now) > FROZEN_S:
                return f"Ray's {name} has been stopped for {FROZEN_S:.0f} s"
        if now - self._scanned_s >= SCAN_EVERY_S:
            self._scanned_s = now
            self._learn_processes(now)
            return self._closed_port() or self._missing_place()
        return ""

    def _closed_port(self) -> str:
        """Return which control service stopped listening (after SIGTERM); else an empty string."""
        for identity, (name, _) in self._known.items():
            if name == "gcs_server":
                if find_listeners([identity.pid]):
                    self._listening[identity] = True
                elif self._listening.get(identity):
                    # It may be ending, which is told apart: look again before the next scan is due.
                    self._listening[identity] = False
                    self._scanned_s += AGAIN_S - SCAN_EVERY_S
                elif identity in self._listening:
                    return f"Ray's {name} closed its port"
        return ""

    def _frozen_s(self, stat: ProcessStat, now: float) -> float:
        if stat.state not in "Tt":
            self._frozen.pop(stat.identity, None)
            return 0.0
        return now - self._frozen.setdefault(stat.identity, now)

    def _learn_processes(self, now: float) -> None:
        group = [
            stat
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and (stat := read_stat(int(entry.name))) is not None
            if stat.group == self._head  # the head leads a group of its own; workers leave it
        ]
        raylet = 0
        for stat in group:
            name = program_name(stat.identity.pid)
            if stat.parent == self._head and name in SERVERS:
                self._known.setdefault(stat.identity, (name, now))
                raylet = stat.identity.pid if name == "raylet" else raylet
        for stat in group:
            if raylet and stat.parent == raylet:
                name = program_name(stat.identity.pid)
                if name != "raylet":
                    _, since_s = self._known.get(stat.identity, (name, now + SETTLED_S))
                    # Again at each scan: an agent takes its title some time after its start.
                    self._known[stat.identity] = (name, since_s)

    def _missing_place(self) -> str:
        if not self._places:
            sockets = list(self._folder.glob("session_2*/sockets/raylet*"))
            if sockets:
                session = sockets[0].parent.parent
                self._places = [session, session / "logs", session / "sockets", *sockets]
        gone = next((place for place in self._places if not place.exists()), None)
        return "" if gone is None else f"Ray's session folder lost {gone.name} (a temp cleaner?)"
