"""Processes of ours: known by pid and start time, marked in their environment, ended for sure."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "WORKBENCH_UNIT"
"""In the environment of everything the keeper starts: which head-and-loop unit it belongs to."""
KEEPER = "WORKBENCH_KEEPER"
"""In the loop's environment: the pid of the keeper it may not outlive."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class Identity:
    """A pid can be given out again; a pid with its start time cannot."""

    pid: int
    started_ticks: int


def identify(pid: int) -> Identity | None:
    """None when there is no such process, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # proc(5): fields from the third on
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def alive(identity: Identity) -> bool:
    return identify(identity.pid) == identity


def marked(unit: str) -> list[int]:
    """Pids of this user whose environment names `unit`, ourselves left out, and of the sessions
    they are in: Ray writes the titles of some of its processes over their environment."""
    wanted, sessions = f"{MARK}={unit}".encode(), _sessions()
    named = {pid for pid in sessions if wanted in _environ(pid)}
    ours = {sessions[pid] for pid in named} - {os.getsid(0)}
    return [
        pid
        for pid, session in sessions.items()
        if (pid in named or session in ours) and identify(pid) is not None
    ]


def _sessions() -> dict[int, int]:
    """pid → session, of every other process of this user."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):  # gone meanwhile
                if entry.stat().st_uid == os.getuid():
                    found[int(entry.name)] = os.getsid(int(entry.name))
    return found


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # not ours to read, or gone meanwhile
        return []


def of_unit(pid: int, unit: str | None = None) -> bool:
    """True for a process that our own unit started, or the `unit` named."""
    name = unit or os.environ.get(MARK)
    if not name:
        return False
    return f"{MARK}={name}".encode() in _environ(pid) or pid in marked(name)


def end_unit(unit: str, deadline_s: float = 10.0) -> list[int]:
    """SIGKILL everything of `unit` until nothing is left; what would not die by the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        left = marked(unit)
        for pid in left:
            _kill(pid)
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


def end(identity: Identity, deadline_s: float = 10.0) -> bool:
    """SIGKILL one process; True once it has gone."""
    until = time.monotonic() + deadline_s
    while alive(identity):
        _kill(identity.pid)
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def die_with_parent() -> None:
    """From now on the kernel ends this process when its parent goes (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def listeners(pids: Iterable[int]) -> list[tuple[str, int]]:
    """(address, port) of every TCP socket these processes listen on; addresses in hex, proc(5)."""
    inodes = set()
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6 has no tcp6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # 0A: listening
                address, port = fields[1].split(":")
                found.append((address, int(port, 16)))
    return found


LOOPBACK = frozenset(
    {
        "0100007F",  # 127.0.0.1
        "0000000000000000FFFF00000100007F",  # ::ffff:127.0.0.1
        "00000000000000000000000001000000",  # ::1
    }
)


def hush(*streams: int) -> None:
    """Whoever read them has gone: what is written to these descriptors goes nowhere, the
    interpreter's last flush too, which would fail (exit code 120)."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(sink, stream)
    os.close(sink)
