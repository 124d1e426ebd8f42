"""Other users' programs on a card: who uses it, and who only holds some bytes of it.

A program that has computed nothing for a minute is idle and costs its card only its bytes: trials
are planned for what is left. Whether a program computes is the driver's word where it tells
processes apart, else the card's utilisation, which says nothing while a trial of ours runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.store.rows import CardRow
from workbench.user_config import Guards

COMPUTES_PERCENT = 5
"""Utilisation from which a program counts as computing."""
UNNAMED_PERCENT = 30
"""Utilisation of a card from which somebody computes, although the driver names nobody. A desktop
that draws now and then stays below it: a card and its processes are sampled over different times.
"""
IDLE_AFTER_S = 60.0
"""Seconds without computing and without growing after which a program counts as idle."""
GROWTH_BYTES = 512 << 20
"""Bytes by which an idle program may grow and stays idle; plans beside idle programs leave them
free. A kernel that is loaded late and cuBLAS's workspace stay below it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Since when a program neither computes nor grows, and the fewest bytes that it held since."""

    since_utc: float
    bytes: int


Rests = dict[tuple[str, int], Rest]
"""By card UUID and pid. It is kept in memory: after a start of the engine a minute must pass."""


def with_idle_times(
    rests: Rests, card: dict[str, Any], *, ours_ran: bool, now: float
) -> list[dict[str, Any]]:
    """Return the card's foreign processes with `idle_s`: whole seconds of rest, None where unknown.

    `card` is a sample without our processes. `ours_ran` says that a trial of ours ran on the card
    in the time that the sample is about. `rests` is updated.
    """
    processes = card.get("processes", [])
    for key in [key for key in rests if key[0] == card["uuid"]]:
        if key[1] not in {one["pid"] for one in processes}:
            del rests[key]  # its pid may become another program's
    nobody_named = not _is_busy(sum(int(one.get("utilisation") or 0) for one in processes))
    found = []
    for one in processes:
        key = (card["uuid"], int(one["pid"]))
        computes = _computes(one, card.get("utilisation"), ours_ran, nobody_named)
        rest = _rest_after(rests.get(key), computes, int(one.get("bytes") or 0), now)
        if rest is not None:
            rests[key] = rest
        found.append({**one, "idle_s": None if rest is None else int(now - rest.since_utc)})
    return found


def _computes(
    process: dict[str, Any], card_percent: int | None, ours_ran: bool, nobody_named: bool
) -> bool | None:
    """Return whether the program computed; None where nobody can tell."""
    if process.get("utilisation") is not None:
        unnamed = nobody_named and not ours_ran and (card_percent or 0) >= UNNAMED_PERCENT
        return _is_busy(process["utilisation"]) or unnamed
    if card_percent is None:
        return None
    if _is_busy(card_percent):
        return None if ours_ran else True
    return False


def _is_busy(percent: float | None) -> bool:
    return percent is not None and percent >= COMPUTES_PERCENT


def _rest_after(rest: Rest | None, computes: bool | None, size: int, now: float) -> Rest | None:
    """Return the rest after a sample: begun again by computing or growth, kept where unknown."""
    if computes is None and rest is None:
        return None
    if rest is None or computes or size > rest.bytes + GROWTH_BYTES or now < rest.since_utc:
        return Rest(since_utc=now, bytes=size)
    return Rest(since_utc=rest.since_utc, bytes=min(rest.bytes, size))


# --- what the samples say about a card ------------------------------------------------------------


def in_use_by(row: CardRow, guards: Guards) -> list[dict[str, Any]]:
    """Return the programs that keep their card from our trials; none where the user shares.

    A desktop that only draws does not count: its bytes are not free, and plans use free bytes.
    """
    if guards.share:
        return []
    users, idle = _others(row, guards), idle_programs(row, guards)
    return [one for one in users if one not in idle]


def idle_programs(row: CardRow, guards: Guards) -> list[dict[str, Any]]:
    """Return the programs beside which trials are planned, because they only hold bytes.

    None are where they hold `idle_below` or more together.
    """
    idle = [one for one in _others(row, guards) if _is_idle(one)]
    held = sum(int(one["bytes"]) for one in idle)
    return idle if guards.idle_below is None or held < guards.idle_below else []


def _others(row: CardRow, guards: Guards) -> list[dict[str, Any]]:
    return [
        one
        for one in row.processes
        if not one.get("draws")
        and (one.get("bytes") is None or int(one["bytes"]) >= guards.foreign_above)
    ]


def _is_idle(process: dict[str, Any]) -> bool:
    """Return True for a program that rests for long enough and whose bytes are known."""
    return process.get("bytes") is not None and (process.get("idle_s") or 0) >= IDLE_AFTER_S


def left_beside(row: CardRow, guards: Guards, free_bytes: int) -> int:
    """Return the bytes that a plan may use of `free_bytes`: idle programs keep room to grow."""
    shared = not guards.share and idle_programs(row, guards)
    return max(0, free_bytes - GROWTH_BYTES) if shared else free_bytes
