"""The keeper: keeps Ray's head and the engine's loop alive as one unit, and samples the cards.

It imports neither ray nor torch nor the database, because it must outlive what it keeps. It ends
when the loop exits with 0 (a person stopped the engine), or on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from workbench.cluster import ray_commands
from workbench.cluster.addresses import is_ours, parse_address
from workbench.cluster.certificates import certificate_environment
from workbench.cluster.settings import read_head, read_joined, read_json, write_json
from workbench.errors import EngineError
from workbench.fleet.ray_head import (
    free_port,
    head_command,
    keep_from_cleaners,
    remove_session_folder,
    session_folder,
    temp_problem,
)
from workbench.home import (
    SHORT_TEMP_HINT,
    Home,
    find_home,
    private_temp,
    read_runtime,
)
from workbench.kept_sampler import KeptSampler, StillFile
from workbench.machine.files import has_room, rotate_log, write_durably
from workbench.machine.head_watch import HeadWatch
from workbench.machine.locks import Lock, lock_holder
from workbench.machine.processes import (
    EXIT_NO_ROOM,
    EXIT_RAY_LOST,
    KEEPER,
    LOOPBACK,
    MARK,
    Identity,
    boot_id,
    end_home_processes,
    end_unit,
    find_listeners,
    find_marked,
    identify_process,
)
from workbench.machine.python_children import (
    bytecode_environment,
    python_command,
    python_environment,
)
from workbench.machine.reserve_file import release_reserve
from workbench.text.redact import log_without_secrets

WATCH_S = 0.1
"""Seconds between two looks at head and loop."""
TICK_LIMIT_S = 30.0
"""Seconds without a tick after which the loop is restarted together with its head."""
LISTENERS_AFTER_S = 8.0
"""Seconds after a unit's start at which all its processes listen, so that they can be checked."""
CRASHES, CRASH_WINDOW_S = 5, 600.0
"""Number of crashes within CRASH_WINDOW_S seconds after which nothing new is placed."""
NO_ROOM_PAUSE_S = 1.0
"""Seconds between two looks at a full disk, or for a missing address."""
LOG_LIMIT_BYTES = 8 << 20
"""Size of a child's log above which the next start of that child begins a new one."""

NO_ROOM = "the disk is full"
LOOP_EXITS = {0: "stopped", EXIT_NO_ROOM: NO_ROOM, EXIT_RAY_LOST: "Ray lost its node"}
"""Exit codes of the loop that mean something else than a crash of its own."""

log = logging.getLogger("workbench.keeper")


@dataclass(slots=True)
class Unit:
    """One Ray head with its loop; they start and end together."""

    name: str
    """The mark in the environment of all its processes."""
    head: subprocess.Popen[bytes]
    loop: subprocess.Popen[bytes]
    """On a cluster's box, which has no loop, head and loop are both its Ray node."""
    temp: Path
    """Ray's session folder."""
    watch: HeadWatch
    started_s: float
    """Monotonic time of its start."""
    listeners_checked: bool = False
    leaders: list[Identity] = field(init=False)
    """Head and loop: each leads a session, in which those are found that have lost their mark."""

    def __post_init__(self) -> None:
        found = (identify_process(child.pid) for child in (self.head, self.loop))
        self.leaders = [one for one in found if one is not None]


class Keeper:
    """The supervisor of one home's head, loop and card sampler."""

    def __init__(self, home: Home, lock: Lock) -> None:
        self.home = home
        self.lock = lock
        self.crashes: deque[float] = deque(maxlen=CRASHES)
        """Monotonic times of the last crashes."""
        self.fresh = True
        """True until a unit has started: the first loop of a keeper forgets an earlier stop."""
        self.why = ""
        """The reason why the last unit ended; empty for a start that a person asked for."""
        self.ending = False
        """True once the keeper was told to end, or has lost its lock."""
        self.sampler = KeptSampler(home, self._spawn)
        self._tick = StillFile(home.tick)
        self._temp_lock = -1
        """The descriptor that keeps the session folder from cleaners of the temp folder."""
        self._room = True
        """False while the keeper waits for room on a full disk."""
        self._address_there = True
        """False while the keeper waits for the address of its cluster."""
        self.cluster = read_head(home)
        """The settings of a cluster's head; None for one machine alone."""

    # --- life ---

    def run(self) -> None:
        """Start units one after another until a person stops the engine."""
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, self._on_term)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._end_leftovers()
        self.home.sample.unlink(missing_ok=True)
        while not self.ending and self.lock.stands():
            if not self._has_room() or not self._has_address():
                time.sleep(NO_ROOM_PAUSE_S)
                continue
            self.why = self._run_unit()
            if self.why == "stopped":
                break
            # A full disk is nobody's crash: everything goes on once there is room again.
            if self.why != NO_ROOM and self._has_room():
                self.crashes.append(time.monotonic())
                time.sleep(min(10.0, 0.5 * 2 ** (len(self._recent()) - 1)))
        self.sampler.end()
        if self.lock.stands():
            self.home.runtime.unlink(missing_ok=True)

    def _run_unit(self) -> str:
        """Start a head with its loop, wait for their end, end the rest; return the reason."""
        try:
            unit = self._start_unit()
        except (OSError, EngineError) as refused:  # no process to be had, no temp folder
            log.error("head and loop could not be started: %s", refused)
            return f"head and loop could not be started: {refused}"
        why = self._watch(unit)
        log.info("unit %s ends: %s", unit.name, why)
        self._end_unit(unit)
        return why

    def _has_room(self) -> bool:
        """Return True where head and loop can write; else release the reserve file first."""
        try:
            places = (self.home.root, private_temp())
        except (OSError, EngineError):  # reported when the unit is started
            return True
        room = all(has_room(place) for place in places)
        if not room and release_reserve(self.home.reserve_file):
            log.error("the disk is full: the reserve file was released")
            room = all(has_room(place) for place in places)
        if room != self._room:
            self._room = room
            log.error("the disk %s", "has room again" if room else f"is full: {places}; waiting")
        return room

    def _has_address(self) -> bool:
        """Return False while this machine lacks the address of its cluster.

        A VPN is not up yet, or a cable is out.
        """
        if self.cluster is None:
            return True
        there = is_ours(parse_address(self.cluster.address))
        if there != self._address_there:
            self._address_there = there
            log.error("the address %s is %s", self.cluster.address, "there" if there else "missing")
        return there

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        self.ending = True

    def _recent(self) -> list[float]:
        """Return the monotonic times of crashes within the last CRASH_WINDOW_S seconds."""
        now = time.monotonic()
        return [at for at in self.crashes if now - at < CRASH_WINDOW_S]

    def _end_leftovers(self) -> None:
        """End the processes that an earlier keeper left behind, which also frees their locks."""
        runtime = read_runtime(self.home)
        if runtime:
            self.why = "its keeper was gone (killed, or a reboot)"
        _, stubborn = end_home_processes(self.home.root, runtime)
        if stubborn:
            log.error("processes %s of an earlier engine would not die", stubborn)
        remove_session_folder(runtime.get("temp"))

    # --- head and loop ---

    def _start_unit(self) -> Unit:
        port = self._next_port()
        name = f"{port}-{secrets.token_hex(4)}"
        with self._session(name) as temp:
            return self._start_in(temp, name, port)

    def _start_in(self, temp: Path, name: str, port: int) -> Unit:
        """Start head and loop. Raises OSError, with neither left running, if one does not start."""
        env = self._env(name, port)
        self.home.tick.unlink(missing_ok=True)
        self._tick = StillFile(self.home.tick)
        self._note_runtime(unit=name, port=port, temp=str(temp))
        command = head_command(port, temp)
        if self.cluster is not None:
            command = ray_commands.cluster_head_command(self.cluster.address, port, temp)
        head = self._spawn("head", command, {**env, "CUDA_VISIBLE_DEVICES": ""})
        try:
            loop = self._spawn("loop", python_command("workbench.engine"), env)
        except OSError:
            end_unit(name)
            head.wait()
            raise
        self.fresh = False
        self._note_runtime(
            unit=name,
            port=port,
            temp=str(temp),
            head=_named(head.pid),
            loop=_named(loop.pid),
        )
        log.info("unit %s: head %d, loop %d, port %d", name, head.pid, loop.pid, port)
        return Unit(name, head, loop, temp, HeadWatch(head.pid, temp), time.monotonic())

    @contextmanager
    def _session(self, name: str) -> Iterator[Path]:
        """Yield a unit's locked session folder; it is removed where the unit does not start."""
        temp = session_folder(name)
        temp.mkdir(mode=0o700, exist_ok=True)
        self._temp_lock = keep_from_cleaners(temp)
        try:
            yield temp
        except BaseException:
            self._remove_session(temp)
            raise

    def _remove_session(self, temp: Path) -> None:
        remove_session_folder(str(temp))
        with suppress(OSError):
            os.close(self._temp_lock)

    def _next_port(self) -> int:
        """Return a free port; in a cluster the one of its two that the last head did not have."""
        if self.cluster is None:
            return free_port()
        file = self.home.root / "cluster" / "port.json"
        port = ray_commands.next_head_port(read_json(file).get("port"))
        write_json(file, {"port": port})
        return port

    def _env(self, unit: str, port: int) -> dict[str, str]:
        """Return a unit's environment: the caller's without RAY_*, our token, loopback only.

        In a cluster, Ray is not held to loopback. Writes the token where the home has none yet.
        """
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        if not self.home.token.exists():
            write_durably(self.home.token, secrets.token_hex(32).encode())
        return {
            **env,
            **bytecode_environment(self.home.bytecode, env),
            MARK: unit,
            KEEPER: str(os.getpid()),
            "WORKBENCH_HOME": str(self.home.root),
            "WORKBENCH_RAY": f"{self.cluster.address if self.cluster else '127.0.0.1'}:{port}",
            "WORKBENCH_FRESH": "1" if self.fresh else "",
            "WORKBENCH_WHY": self.why,
            "WORKBENCH_BRAKE": self._brake(),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.home.token),
            **(ray_commands.CLUSTER_ENV if self.cluster else ray_commands.LOOPBACK_ENV),
            **certificate_environment(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ROTATION_MAX_BYTES": str(1 << 20),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_prestart_worker_first_driver": "0",  # idle ones that no actor here would take
        }

    def _brake(self) -> str:
        """Return why the loop may place nothing new; an empty string unless it crashed often."""
        if len(self._recent()) < CRASHES:
            return ""
        return (
            f"the engine crashed {CRASHES} times in ten minutes; nothing new is started. "
            f"See {self.home.logs}/loop.log, then: workbench engine stop, and start"
        )

    def _spawn(self, name: str, command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a child in a session of its own; its output goes to logs/<name>.log."""
        with self._log_file(name).open("ab") as out:
            return subprocess.Popen(
                command,
                env=python_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd="/",
            )

    def _log_file(self, name: str) -> Path:
        """Return the path of a starting child's log; one that has grown too long is renamed."""
        return rotate_log(self.home.logs / f"{name}.log", LOG_LIMIT_BYTES)

    def _note_runtime(self, **what: object) -> None:
        """Write runtime.json, which tells later keepers and commands what this one started."""
        known = {"boot": boot_id(), "keeper": _named(os.getpid()), **what}
        with suppress(OSError):  # disk full: the marks in /proc still name what is ours
            write_durably(self.home.runtime, json.dumps(known).encode())

    def _watch(self, unit: Unit) -> str:
        """Block while all is well; return the reason why the unit has to end."""
        while not self.ending:
            if not self.lock.stands():  # its folder was removed: a new keeper may have taken over
                self.ending = True
                break
            self.sampler.keep()
            code = unit.loop.poll()
            if code is not None:
                return LOOP_EXITS.get(code, f"the loop exited with {code}")
            if unit.head.poll() is not None:
                return f"Ray's head exited with {unit.head.returncode}"
            if lost := _trouble_of(unit.watch):
                return lost
            if self._tick.still_s(unit.started_s) > TICK_LIMIT_S:
                return f"the loop did not tick for {TICK_LIMIT_S:.0f} s"
            exposed = self._exposed(unit)
            if exposed:
                return f"Ray listens on {exposed}, not on loopback alone"
            time.sleep(WATCH_S)
        return "the keeper was told to end"

    def _exposed(self, unit: Unit) -> str:
        """Return a listener of the unit on another address than loopback, else an empty string.

        Checked once for each unit, when everything of it has come up.
        """
        if self.cluster is not None:  # asked for; every port wants the token
            return ""
        if unit.listeners_checked or time.monotonic() - unit.started_s < LISTENERS_AFTER_S:
            return ""
        unit.listeners_checked = True
        open_to_all = [a for a in find_listeners(find_marked(unit.name)) if a[0] not in LOOPBACK]
        return f"{open_to_all[0][0]}:{open_to_all[0][1]}" if open_to_all else ""

    def _end_unit(self, unit: Unit) -> None:
        stubborn = end_unit(unit.name, unit.leaders)
        for child in (unit.loop, unit.head):
            child.poll()  # never waits for one that would not die: others wait for the keeper
        if stubborn:
            log.error("processes %s of unit %s would not die", stubborn, unit.name)
        self._remove_session(unit.temp)


def _trouble_of(watch: HeadWatch) -> str:
    """Return why the head can start no more workers; an empty string while it can."""
    try:
        return watch.trouble()
    except Exception:  # a watch that fails must not end what it watches
        log.exception("Ray's processes cannot be watched")
        return ""


def _named(pid: int) -> dict[str, int] | None:
    """Return the identity of `pid` as JSON data; None where it has ended."""
    known = identify_process(pid)
    return None if known is None else {"pid": known.pid, "started_ticks": known.started_ticks}


def lock_in_background(home: Home) -> Lock | None:
    """Return the home's keeper lock in a child of this process, which ends; None where it is held.

    The lock's file names the child before this process ends, so that whoever started it can stop
    the keeper at once.
    """
    lock = Lock(home.keeper_lock)
    if not lock.take():
        log.info("process %s keeps %s already", lock_holder(lock.path), home.root)
        return None
    if child := os.fork():
        lock.sign(child)
        os._exit(0)
    return lock


def main() -> int:
    """Start a keeper in the background; return at once where another one keeps the home."""
    log_without_secrets("%(asctime)s %(levelname)s %(message)s")
    home = find_home().make()
    if read_joined(home) is not None:  # a box of a cluster: its head has the engine
        command = python_command("workbench.node_keeper")
        os.execve(command[0], command, python_environment())
    lock = lock_in_background(home)
    if lock is None:
        return 0
    log.info("keeper %d of %s", os.getpid(), home.root)
    if problem := temp_problem():
        # As when the database cannot be used: the reason is shown, and retrying would not help.
        log.error("%s; %s", problem, SHORT_TEMP_HINT)
        write_durably(home.stopped, f"{problem}\n{SHORT_TEMP_HINT}\n".encode())
        return 0
    Keeper(home, lock).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
