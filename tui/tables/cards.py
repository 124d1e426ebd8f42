"""Cards as rows, and all there is to say of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tui import present
from tui.paint import Gauge, Line, Part, plain
from tui.widgets.rowlist import Column, Row
from workbench.machine import xid
from workbench.service import CardRow, TrialRow

STALE_S = 30.0
"""A sample older than this says little of now."""

COLUMNS = (
    Column(title="card", width=8, most=22, grow=2),
    Column(title="id", width=8, drop=2),
    Column(title="memory", width=6, most=40, grow=4, drop=1),
    Column(title="", width=13, right=True),
    Column(title="busy", width=4, right=True),
    Column(title="temp", width=4, right=True, drop=3),
    Column(title="power", width=5, right=True, drop=4),
    Column(title="does", width=14, grow=3),
)


def rows(cards: Sequence[CardRow], trials: Sequence[TrialRow], now: float) -> list[Row]:
    by_id = {row.id: row for row in trials}
    return [_row(card, by_id.get(card.trial or 0), now) for card in cards]


def _row(card: CardRow, trial: TrialRow | None, now: float) -> Row:
    old = now - card.seen_utc > STALE_S or not card.present
    used = None if card.free_bytes is None or old else card.total_bytes - card.free_bytes
    share = None if used is None else used / card.total_bytes
    full = share is not None and share > 0.95
    return Row(
        card.uuid,
        (
            (plain(short_name(card.name), "bold" if card.present else "dim"),),
            ((present.short_uuid(card.uuid), "dim"),),
            Gauge(share, "warn" if full else "live"),
            ((present.gib_of(used, card.total_bytes), "" if used is not None else "dim"),),
            (_measured(None if old else card.utilisation, "%", "dim"),),
            (_measured(None if old else card.temperature_c, "°C", _heat(card)),),
            (_measured(None if old else card.power_w, " W", "dim"),),
            does(card, trial),
        ),
    )


def short_name(name: str) -> str:
    """Without what every card of its maker is called."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ").removeprefix("Tesla ")


def _measured(value: float | None, unit: str, tone: str) -> Part:
    return (present.NONE, "faint") if value is None else (f"{value:.0f}{unit}", tone)


def _heat(card: CardRow) -> str:
    return {"hot": "bad", "warm": "warn"}.get(card.heat, "dim")


def does(card: CardRow, trial: TrialRow | None) -> Line:
    """Its trial, or why it has none."""
    if not card.present:
        return (("✗ gone", "bad"),)
    if card.quarantined:
        return (("✗ quarantined", "bad"),)
    drain: Line = ((" drained", "warn"),) if card.drained else ()
    if trial is not None:
        return (
            ("● ", "live"),
            (present.trial_name(trial), ""),
            (" ", ""),
            plain(trial.phase or "starting", "dim", 12),
            *drain,
        )
    if card.problem:
        return (("! ", "warn"), plain(card.problem, "warn"))
    if card.guard:
        return (("‖ ", "warn"), plain(card.guard, "warn"))
    return (("‖", "warn"), *drain) if drain else (("○ free", "dim"),)


def about(
    card: CardRow, trial: TrialRow | None, now: float, guards: Mapping[str, Any]
) -> list[Line]:
    """Everything known of it, one fact a line."""
    facts: list[tuple[str, Line]] = [
        ("card", (plain(card.name, "bold"),)),
        ("uuid", (plain(card.uuid),)),
        ("seen", ((present.ago(now - card.seen_utc), ""),)),
    ]
    if card.capability:
        facts.append(("compute capability", (plain(card.capability),)))
    facts.append(("memory", (_memory(card),)))
    if card.cap_bytes is not None:
        facts.append(("your own limit", ((present.gib(card.cap_bytes), ""),)))
    facts += _measures(card, guards)
    facts.append(("does", does(card, trial)))
    if trial is not None:
        facts.append(("settings", (plain(present.settings(trial.settings) or present.NONE),)))
    for process in card.processes[:6]:
        name = process.get("name") or "a program"
        does_what = "draws" if process.get("draws") else "computes"
        text = f"{name} {does_what}, pid {process.get('pid', '?')}, {present.gib(_bytes(process))}"
        facts.append(("somebody else's", (plain(text, "warn"),)))
    if card.quarantined:
        facts.append(("quarantined", (plain(card.quarantined, "bad", 600),)))
    elif card.guard and trial is not None:
        facts.append(("after this trial", (plain(card.guard, "warn"),)))
    if card.problem:
        facts.append(("problem", (plain(card.problem, "warn"),)))
    if card.drained:
        facts.append(("drained", (("gets no new trials", "warn"),)))
    return [((f"{name:<20}", "dim"), *line) for name, line in facts]


def _measures(card: CardRow, guards: Mapping[str, Any]) -> Iterator[tuple[str, Line]]:
    """Heat, power, energy, and what watches the card; each where it is told."""
    if card.temperature_c is not None:
        limits = present.heat_limits(guards)
        said = f"{card.temperature_c:.0f} °C"
        yield "temperature", ((said, _heat(card)), (f"  {limits}", "dim"))
    if card.power_w is not None:
        yield "power", ((present.power(card.power_w, card.power_limit_w), ""),)
    if card.energy_wh is not None:
        yield "drew for trials", ((present.energy(card.energy_wh), ""),)
    if card.ecc_errors:
        yield "memory errors", ((f"{card.ecc_errors} not corrected since boot", "bad"),)
    if card.xid_watch is not None:
        tone = "dim" if card.xid_watch else "warn"
        yield "Xid errors", (plain(present.xid_watch(card.xid_watch), tone), *_last_xid(card))


def _last_xid(card: CardRow) -> Line:
    if not card.xids:
        return ()
    at_utc, code = card.xids[-1]
    return ((f"; last {xid.words(int(code))} at {present.clock(at_utc)}", "warn"),)


def _memory(card: CardRow) -> Part:
    free = "" if card.free_bytes is None else f", {present.gib(card.free_bytes)} free"
    return (f"{present.gib(card.total_bytes)}{free}", "")


def _bytes(process: dict[str, object]) -> int | None:
    found = process.get("bytes")
    return found if isinstance(found, int) else None
