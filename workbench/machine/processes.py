"""Operations on the workbench's own processes: identify, find by mark, end, list listeners.

A process is identified by its pid and start time, because pids are reused. Everything the keeper
starts carries WORKBENCH_UNIT in its environment, so that it can be found after the keeper itself
was killed. Linux only: all facts come from /proc.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

MARK = "WORKBENCH_UNIT"
"""Environment variable that names the head-and-loop unit a process belongs to; the keeper sets it
for everything it starts.
"""
KEEPER = "WORKBENCH_KEEPER"
"""Environment variable of the loop: pid of the keeper that the loop may not outlive."""
_PR_SET_PDEATHSIG = 1  # prctl(2)

EXIT_NO_ROOM = 75
"""Exit code of a loop that found a full disk (EX_TEMPFAIL of sysexits.h): no crash."""
EXIT_RAY_LOST = 76
"""Exit code of a loop whose Ray head lost its node: head and loop start again, nobody is blamed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be confused with another: a pid may be reused, a pid with its start
    time cannot.
    """

    pid: int
    started_ticks: int
    """Start time in clock ticks since boot: proc(5), field 22."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The facts of /proc/<pid>/stat that the workbench uses."""

    identity: Identity
    state: str
    """One letter, proc(5): R, S, D run; T is stopped by a signal, t by a debugger."""
    parent: int
    group: int
    """Process group. Ray's own processes share that of the head; each worker has its own."""


def read_stat(pid: int) -> ProcessStat | None:
    """Return the facts about `pid`; None where no such process exists or only its zombie.

    A process whose first thread has ended is shown as a zombie while others of its threads live: it
    still holds its locks, its files and a card's memory, so it exists.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # proc(5): fields from the third on
    if fields[0] in "ZX" and int(fields[17]) <= 1:
        return None
    return ProcessStat(Identity(pid, int(fields[19])), fields[0], int(fields[1]), int(fields[2]))


def identify_process(pid: int) -> Identity | None:
    """Return the identity of `pid`; None where no such process exists or only its zombie."""
    found = read_stat(pid)
    return None if found is None else found.identity


def boot_id() -> str:
    """Return the kernel's name of this boot, in which alone an Identity means anything."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_frozen(pid: int) -> bool:
    """Return True for a process that is stopped by a signal (SIGSTOP) or a debugger."""
    found = read_stat(pid)
    return found is not None and found.state in "Tt"


def program_name(pid: int) -> str:
    """Return the program, Python module or script that `pid` runs, or the title it gave itself."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ")
    except OSError:
        return ""
    words = [word.decode(errors="replace").strip() for word in line.split(b"\0")]
    if words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").split(" ")[0]
    for before, word in pairwise(words):
        if before == "-m":
            return word
        if word.endswith(".py"):
            return Path(word).stem
    return Path(words[0]).name


def is_alive(identity: Identity) -> bool:
    """Return True while the process runs; False once it ended, even where its pid was reused."""
    return identify_process(identity.pid) == identity


def find_marked(unit: str) -> list[int]:
    """Return the pids of this user's processes that belong to `unit`, without this process.

    A process belongs to it when its environment names the unit, or when it is in the session of
    such a process: Ray writes the titles of some of its processes over their environment. Costs
    about 5 ms for each hundred processes of the machine.
    """
    mark, sessions = f"{MARK}={unit}".encode(), _sessions()
    named = {pid for pid in sessions if mark in _environ(pid)}
    ours = {sessions[pid] for pid in named} - {os.getsid(0)}
    return [
        pid
        for pid, session in sessions.items()
        if (pid in named or session in ours) and identify_process(pid) is not None
    ]


def find_session(leader: Identity) -> list[int]:
    """Return the pids in the session that `leader` began, also when `leader` itself has ended.

    Where another process has its pid by now, that session has ended too: the kernel gives out no
    pid that still names a session.
    """
    now = read_stat(leader.pid)
    if now is not None and now.identity != leader:
        return []
    return [pid for pid, session in _sessions().items() if session == leader.pid]


def find_home_processes(root: Path, runtime: dict[str, Any]) -> list[int]:
    """Return the pids of everything that a keeper started for the home `root` and that still runs.

    `runtime` is what that keeper wrote to runtime.json; {} where that is lost. Its head and loop
    lead sessions of their own, in which processes are found that overwrote their environment. After
    a reboot others may be in sessions of these numbers, so that only marks count.
    """
    units = find_home_units(root)
    found = {pid for unit in units for pid in find_marked(unit)}
    for name in ("head", "loop") if runtime.get("boot") == boot_id() else ():
        with suppress(TypeError, KeyError):  # not written by a keeper
            found |= set(find_session(Identity(**runtime[name])))
    return sorted(pid for pid in found if pid != os.getpid() and identify_process(pid) is not None)


def end_home_processes(
    root: Path, runtime: dict[str, Any], deadline_s: float = 10.0
) -> tuple[list[str], list[int]]:
    """Send SIGKILL to everything of find_home_processes until nothing is left.

    Return what the processes ran, and the pids that still lived after `deadline_s`.
    """
    programs: dict[int, str] = {}

    def find() -> list[int]:
        found = find_home_processes(root, runtime)
        for pid in found:  # before any is killed: the death of one can end others
            programs.setdefault(pid, program_name(pid))
        return found

    stubborn = _end_found(find, deadline_s)
    return [name for name in programs.values() if name], stubborn


def find_home_units(root: Path) -> set[str]:
    """Return the units whose processes live and were started for the home `root`.

    Includes that of the card sampler. Costs about 5 ms for each hundred processes of the machine.
    """
    home, units = f"WORKBENCH_HOME={root}".encode(), set()
    mark = f"{MARK}=".encode()
    for pid in _sessions():
        environ = _environ(pid)
        if home in environ:
            units |= {v.removeprefix(mark).decode() for v in environ if v.startswith(mark)}
    return units - {""}


def _sessions() -> dict[int, int]:
    """Return pid → session id for every other process of this user."""
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


def belongs_to_unit(pid: int, unit: str | None = None) -> bool:
    """Return True where `pid` was started by this process's own unit, or by `unit`."""
    name = unit or os.environ.get(MARK)
    if not name:
        return False
    return f"{MARK}={name}".encode() in _environ(pid) or pid in find_marked(name)


def end_unit(unit: str, leaders: Iterable[Identity] = (), deadline_s: float = 10.0) -> list[int]:
    """Send SIGKILL to every process of `unit`, and of the leaders' sessions, until none is left.

    Return the pids that still lived after `deadline_s` (for example in an uninterruptible driver
    call); an empty list is success.
    """
    sessions = list(leaders)

    def find() -> list[int]:
        return [*find_marked(unit), *(pid for one in sessions for pid in find_session(one))]

    return _end_found(find, deadline_s)


def end_session(leader: Identity, deadline_s: float = 10.0) -> list[int]:
    """Send SIGKILL to every process of the session that `leader` began, until none is left.

    Return the pids that still lived after `deadline_s`, as `end_unit` does.
    """
    return _end_found(lambda: find_session(leader), deadline_s)


def _end_found(find: Callable[[], list[int]], deadline_s: float) -> list[int]:
    """Send SIGKILL to what `find` finds until nothing is left; return what is left at the deadline.

    The kernel takes a process's memory first, and with it the mark in its environment, then its
    files, and with them its locks and a card's memory, which can take a second. So what was found
    once is waited for.
    """
    seen: set[Identity] = set()
    until = time.monotonic() + deadline_s
    while True:
        seen |= {known for pid in find() if (known := identify_process(pid)) is not None}
        left = []
        for one in seen:
            if is_alive(one):  # asked right before the signal: its pid may be another's by now
                _kill(one.pid)
                left.append(one.pid)
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)


def end_process(identity: Identity, deadline_s: float = 10.0) -> bool:
    """Send SIGKILL to one process and wait; return True once it has ended, False after
    `deadline_s`.
    """
    until = time.monotonic() + deadline_s
    while is_alive(identity):
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
    """Ask the kernel to kill this process when its parent ends (prctl, Linux only)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def find_listeners(pids: Iterable[int]) -> list[tuple[str, int]]:
    """Return (address, port) of every TCP socket on which these processes listen.

    Addresses are hexadecimal, as proc(5) prints them; compare them with LOOPBACK.
    """
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


def silence_streams(*streams: int) -> None:
    """Redirect these file descriptors to /dev/null, because their reader has gone.

    Without it the interpreter's last flush fails and changes the exit code to 120.
    """
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(sink, stream)
    os.close(sink)
