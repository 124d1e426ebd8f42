"""Keep a home's machine whole: heat, other people's programs, starts one by one, failing cards.

`see_sample` and `guard` write what they find to the cards' rows; `place`, `settle` and `rescue` ask
here in a line each. The disk's guard is `disk.py`. docs/guards.md is for people.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.fleet import Halt, Phase
from workbench.machine import xid
from workbench.scheduler.guards.disk import keep_room
from workbench.scheduler.guards.energy import drawn_wh
from workbench.store.rows import Attempt, CardRow, TrialRow
from workbench.user_config import Guards

if TYPE_CHECKING:
    from workbench.scheduler.tick_context import TickContext

GUARDS = "guards"
"""Fact: the [guards] that hold, as JSON; for front ends."""
CONFIG_PROBLEM = "config-problem"
"""Fact: why the user's configuration does not hold; empty when it does."""
USED = "in use by"
GPU_START_GAP_S = 2.0
POISONED_S = 60.0
"""Without progress for so long after an error of its program, a worker is done for. It usually
says so itself, at once."""


# --- what a sample tells -------------------------------------------------------------------------


def see_sample(context: TickContext, seen: list[dict[str, Any]]) -> None:
    """The newest sample, in one commit: its rows, the energy, and cards that failed."""
    store = context.store
    with store.writing():
        before = {row.uuid: row for row in store.cards()}
        store.see_cards(seen)
        rows = [row for row in store.cards() if row.present]
        for row in rows:
            last = context.metered.get(row.uuid)
            if last is not None and (energy_wh := drawn_wh(last, row)) is not None:
                store.bill(row.uuid, last.seen_utc, row.seen_utc, energy_wh)
            _judge(context, before.get(row.uuid), row)
    context.metered |= {row.uuid: row for row in rows if not row.problem}


def _judge(context: TickContext, before: CardRow | None, row: CardRow) -> None:
    """Note what happened to the card since, and take it out of use when it failed."""
    store = context.store
    for code in fresh_xids(before, row):
        level = "info" if xid.fault(code) is xid.Fault.NOTICE else "warning"
        store.note("xid", f"card {row.uuid}: {xid.words(code)}", level=level)
    if before is not None and before.lost and not row.lost:
        still = "; it is still quarantined" if row.quarantined else ""
        store.note("card-back", f"card {row.uuid} is back{still}")
    why = failure(before, row)
    if why and not row.quarantined:
        store.quarantine(row.uuid, f"{why}. Then: workbench undrain {row.uuid[:12]} --quarantine")
        store.note("quarantined", f"card {row.uuid} is quarantined: {why}", level="error")


def fresh_xids(before: CardRow | None, now: CardRow) -> list[int]:
    """Codes told since, by their moments: a clock that was set hides none."""
    known = before.xids if before is not None else []
    return [int(code) for at_utc, code in now.xids if [at_utc, code] not in known]


def failure(before: CardRow | None, now: CardRow) -> str:
    """Why the card is not to be trusted any more, and what mends it; empty while it is."""
    for code in fresh_xids(before, now):
        if xid.fault(code) is xid.Fault.CARD:
            return f"{xid.words(code)}; {xid.hint(code)}"
    errors = (now.ecc_errors or 0) - ((before.ecc_errors if before else None) or 0)
    if errors > 0:
        return (
            f"{errors} memory errors that could not be corrected; reboot, and test the card's "
            "memory if they come back"
        )
    if now.lost and not (before and before.lost) and now.trial is not None:
        return f"it was lost while it ran trial {now.trial}; check its power and riser, reboot"
    return ""


def without_nameless(processes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a card on which our worker lives but is not listed: in a container NVML tells the
    host's pids. The largest whose pid is nobody's here is taken for ours."""
    strangers = [one for one in processes if not one.get("name") and not one.get("draws")]
    if not strangers:
        return processes
    ours = max(strangers, key=lambda one: int(one.get("bytes") or 0))
    return [one for one in processes if one is not ours]


# --- each tick -----------------------------------------------------------------------------------


def guard(context: TickContext) -> None:
    """Bring each card's heat and guard up to date, let go of cards we should leave, keep room."""
    guards = context.config().guards
    _tell_config(context, guards)
    changed = [row for row in context.cards if _update(context, row, guards)]
    if changed:
        context.cards = context.store.cards()
    for row in context.cards:
        _let_go(context, row, guards)
    keep_room(context, guards)


def _tell_config(context: TickContext, guards: Guards) -> None:
    store, problem = context.store, context.config.problem
    if (store.fact(CONFIG_PROBLEM) or "") != problem:
        store.set_fact(CONFIG_PROBLEM, problem)
        if problem:
            store.note("config", problem, level="warning")
    holds = guards.model_dump_json()
    if store.fact(GUARDS) != holds:
        store.set_fact(GUARDS, holds)


def _update(context: TickContext, row: CardRow, guards: Guards) -> bool:
    """Write what changed, with a line for people where it matters to them."""
    heat = heat_of(row, guards)
    why = keeps_off(replace(row, heat=heat), guards)
    if (heat, why) == (row.heat, row.guard):
        return False
    with context.store.writing():
        context.store.touch_card(row.uuid, heat=heat, guard=why)
        for level, text in _told(row, heat, why, guards):
            context.store.note("guard", f"card {row.uuid} {text}", level=level)
    return True


def _told(row: CardRow, heat: str, why: str, guards: Guards) -> Iterator[tuple[str, str]]:
    if heat == "hot" and row.heat != "hot":
        then = f"trial {row.trial} pauses" if row.trial is not None else "it gets no trial"
        yield "warning", f"is at {row.temperature_c:.0f} °C: {then} until it has cooled"
    elif row.heat == "hot" and not heat:
        yield "info", "has cooled"
    if why.startswith(USED) and not row.guard.startswith(USED):
        yield "info", f"is left alone: {why}"
    elif row.guard.startswith(USED) and not why:
        yield "info", "is free again"


def heat_of(row: CardRow, guards: Guards) -> str:
    """Empty, warm or hot; it cools by `cooled_by_c` before it is neither any more."""
    if row.temperature_c is None or row.problem:  # nobody knows: as before, while it may be hot
        return row.heat if row.problem else ""
    if row.temperature_c > guards.pause_above_c:
        return "hot"
    if row.temperature_c > guards.no_start_above_c:
        return row.heat or "warm"
    return row.heat if row.temperature_c > cooled_c(guards) else ""


def cooled_c(guards: Guards) -> float:
    return guards.no_start_above_c - guards.cooled_by_c


def keeps_off(row: CardRow, guards: Guards) -> str:
    """Why the card gets no new trial now; empty while it may."""
    if row.heat:
        seen = f"at {row.temperature_c:.0f} °C" if row.temperature_c is not None else "hot"
        return f"cools: {seen}, takes trials again at {cooled_c(guards):.0f} °C"
    return in_use(row, guards)


def in_use(row: CardRow, guards: Guards) -> str:
    """Whose it is; empty when it is nobody's, or the user shares. A desktop that only draws on it
    is no hindrance: what it takes is not free, and planning goes by what is."""
    if guards.share:
        return ""
    users = [
        one
        for one in row.processes
        if not one.get("draws")
        and (one.get("bytes") is None or int(one["bytes"]) >= guards.foreign_above)
    ]
    if not users:
        return ""
    first = max(users, key=lambda one: int(one.get("bytes") or 0))
    size = first.get("bytes")
    facts = [str(first.get("name") or ""), "" if size is None else f"{size / 2**30:.1f} GiB"]
    told = ", ".join(fact for fact in facts if fact)
    more = f" and {len(users) - 1} more" if len(users) > 1 else ""
    return f"{USED} pid {first.get('pid')}" + (f" ({told})" if told else "") + more


def _let_go(context: TickContext, row: CardRow, guards: Guards) -> None:
    """Our idle worker leaves a card that somebody else uses, or that is out of use: its base and
    context are gigabytes."""
    report = context.reports.get(row.uuid)
    if report is None or report.phase is not Phase.IDLE or row.trial is not None:
        return
    if row.quarantined or in_use(row, guards):
        context.fleet.end(row.uuid, "its card is left alone")


# --- what the scheduler asks ---------------------------------------------------------------------


def stagger(context: TickContext, free: dict[str, CardRow], busy: dict[str, str]) -> None:
    """Take those out of `free` that may not begin yet, because another card just did."""
    gaps = {uuid: start_gap_s(row, context.config().guards) for uuid, row in free.items()}
    if not any(gaps.values()):
        return
    now, begun = context.store.clock(), context.store.last_starts()
    for uuid, gap_s in gaps.items():
        since = [now - at_utc for card, at_utc in begun.items() if card != uuid]
        if any(0 <= one < gap_s for one in since):  # below 0: the clock was set back
            busy[uuid] = f"starts {gap_s:g} s after the one before it"
            del free[uuid]


def start_gap_s(row: CardRow, guards: Guards) -> float:
    if guards.start_gap_s is not None:
        return guards.start_gap_s
    return GPU_START_GAP_S if row.kind == "cuda" else 0.0


def halt(context: TickContext, attempt: Attempt) -> Halt | None:
    """How a guard wants this attempt to end; None while it may go on."""
    row = _card(context, attempt.card)
    return Halt.YIELD if row is not None and row.heat == "hot" else None


def because(context: TickContext, trial: TrialRow) -> str:
    """What to add where it is told that the trial gave its card back."""
    row = _card(context, trial.card or "")
    return ": the card was too hot" if row is not None and row.heat == "hot" else ""


def unfit(context: TickContext, attempt: Attempt) -> str:
    """Why this attempt cannot go on where it is; empty while it may."""
    row = _card(context, attempt.card)
    if row is None:
        return ""
    if row.quarantined:
        return f"card {row.uuid} is quarantined: {row.quarantined}"
    report = context.reports.get(row.uuid)
    still_s = float((report.data or {}).get("still_s") or 0.0) if report else 0.0
    return poisoned(row, attempt, still_s, context.store.clock())


def poisoned(row: CardRow, attempt: Attempt, still_s: float, now: float) -> str:
    """Why its worker is done for: its program broke on the card, and nothing moved since."""
    for at_utc, code in row.xids:
        since_s = now - at_utc
        since_it = attempt.started_utc < at_utc and POISONED_S <= since_s <= still_s
        if since_it and xid.breaks_context(int(code)):
            return f"{xid.words(int(code))} on {row.uuid}, and no progress for {still_s:.0f} s"
    return ""


def _card(context: TickContext, uuid: str) -> CardRow | None:
    return next((row for row in context.cards if row.uuid == uuid), None)
