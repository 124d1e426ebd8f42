"""The engine's status, read from its locks, its files and the store's facts.

Nothing here talks to the engine: it can be asked while the engine is down or does not answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workbench.cluster.addresses import is_ours, parse_address
from workbench.cluster.settings import read_head, read_joined
from workbench.home import STOPPED_BY_A_PERSON, Home
from workbench.machine.files import ROOM_BYTES, free_bytes
from workbench.machine.locks import lock_holder
from workbench.store.reader import Reader
from workbench.text import safe_line

LATE_S = 10.0
"""Seconds without a tick after which the loop is shown as not answering."""

EngineState = Literal["running", "starting", "late", "stopping", "stopped", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """The engine as a front end shows it."""

    state: EngineState
    """running; starting (a keeper lives, no tick yet); late (no tick for 10 s); stopping (the loop
    has ended, its keeper has not); stopped (by a person, or by itself for a reason in `detail`);
    down (was never started, or died: the next command starts it)."""
    pid: int | None
    """The keeper's process; None while there is none."""
    tick_age_s: float | None
    """Seconds since the loop's last tick; None before the first."""
    detail: str
    """A line for people, empty when all is well."""
    braked: bool = False
    """Nothing new is placed, for the reason in `detail`."""

    @property
    def has_ended(self) -> bool:
        """True where no loop answers requests or trains: stopping, stopped or down."""
        return self.state in ("stopping", "stopped", "down")


def read_status(home: Home, open_reader: Callable[[], Reader | None]) -> EngineStatus:
    """Return the status of a home's engine in well under a millisecond.

    `open_reader` returns the store, or None where no engine ever ran. It is called only while a
    keeper lives, so that a damaged database does not hide that the engine is down.
    """
    keeper = lock_holder(home.keeper_lock)
    age_s = _age_s(home.tick)
    if keeper is None:
        why = stop_reason(home)
        return EngineStatus(
            state="down" if why is None else "stopped",
            pid=None,
            tick_age_s=age_s,
            detail="not running" if why is None else why[0] or "stopped by you",
        )
    loop = lock_holder(home.loop_lock)
    state: EngineState = "running"
    detail, braked = _trouble(open_reader())
    if loop is None and (joined := read_joined(home)) is not None:
        detail = f"this machine is a box of the cluster at {joined.head}, which has the engine"
    elif loop is None and stop_reason(home) is not None:  # the file goes when the engine starts
        state, detail = "stopping", "Ray is being ended"
    elif loop is None and free_bytes(home.root) < ROOM_BYTES:
        state = "starting"
        detail = f"the disk of {home.root} is full; free some, and the engine starts by itself"
    elif loop is None and (address := missing_address(home)):
        state = "starting"
        detail = (
            f"this machine lacks the address {address} of its cluster; the engine starts once it "
            "is there, or at another: workbench cluster up ADDRESS"
        )
    elif loop is None or age_s is None:
        state, detail = "starting", "starting Ray and the workers"
    elif age_s > LATE_S:
        state, detail = "late", f"no tick for {age_s:.0f} s"
    return EngineStatus(state=state, pid=keeper, tick_age_s=age_s, detail=detail, braked=braked)


def missing_address(home: Home) -> str:
    """Return the address of the home's cluster where no interface has it; else an empty string."""
    head = read_head(home)
    return head.address if head is not None and not is_ours(parse_address(head.address)) else ""


def stop_reason(home: Home) -> tuple[str, str] | None:
    """Return why the engine ended by itself, with a hint; both are empty where a person stopped
    it. None: it was not stopped since it last started.
    """
    try:
        text = home.stopped.read_bytes()[:4_000]
    except (FileNotFoundError, NotADirectoryError):
        return None
    if text in (b"", STOPPED_BY_A_PERSON):
        return ("", "")
    what, _, hint = text.decode(errors="replace").partition("\n")
    return (safe_line(what), safe_line(hint))


def is_stopping(home: Home, open_reader: Callable[[], Reader | None]) -> bool:
    """Return True while a living engine carries out a stop; `open_reader` as in `read_status`."""
    if lock_holder(home.keeper_lock) is None:
        return False
    reader = open_reader()
    return home.stopped.exists() or bool(reader and reader.fact("stopping"))


def _trouble(reader: Reader | None) -> tuple[str, bool]:
    """Return what is wrong with a running engine, and whether it places nothing new because of it.

    The worst comes first: only one line is shown.
    """
    if reader is None:
        return "", False
    if reader.fact("stopping"):
        return "the engine is stopping; what runs checkpoints first", True
    held = "the queue is held; `workbench release` lets it go on"
    brake = reader.fact("brake") or (held if reader.fact("held") else "")
    problems = (reader.fact(key) for key in ("cards-problem", "disk-low"))
    brake = brake or next((problem for problem in problems if problem), "")
    return (brake, True) if brake else (reader.fact("config-problem") or "", False)


def _age_s(path: Path) -> float | None:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return None
