"""Card guards: heat, other people's programs, failing cards.

`guard_cards` writes what it finds to the cards' rows; `place`, `reconcile` and `recover` call the
functions at the end. New samples are stored by `card_samples.py`; the gap between two starts is
`start_gap.py`, the disk's guard `disk.py`. docs/guards.md is for users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workbench.fleet import Halt, Phase
from workbench.formatting import describe_programs
from workbench.machine import xid
from workbench.scheduler.guards.disk import keep_room
from workbench.scheduler.guards.idle_programs import idle_programs, in_use_by
from workbench.scheduler.tick_context import TickContext
from workbench.store import card_table
from workbench.store.rows import AttemptRow, CardRow, TrialRow
from workbench.user_config import Guards

GUARDS = "guards"
"""Fact: the [guards] in force, as JSON; for front ends."""
CONFIG_PROBLEM = "config-problem"
"""Fact: why the user's configuration is not in force; empty when it is."""
USED = "in use by"
POISONED_S = 60.0
"""Seconds without progress after an error of its program on the card, after which a worker is
replaced. It usually ends by itself at once.
"""


# --- each tick -----------------------------------------------------------------------------------


def guard_cards(context: TickContext) -> None:
    """Update each card's heat and guard, end idle workers of cards in use, keep disk room."""
    guards = context.config().guards
    _report_config(context, guards)
    changed = [row for row in context.cards if _update(context, row, guards)]
    if changed:
        context.cards = context.store.cards()
    for row in context.cards:
        _end_idle_worker(context, row, guards)
    keep_room(context, guards)


def _report_config(context: TickContext, guards: Guards) -> None:
    """Report a problem of the user's configuration and the guards in force, where they changed."""
    store, problem = context.store, context.config.problem
    if (store.fact(CONFIG_PROBLEM) or "") != problem:
        store.set_fact(CONFIG_PROBLEM, problem)
        if problem:
            store.note("config", problem, level="warning")
    holds = guards.model_dump_json()
    if store.fact(GUARDS) != holds:
        store.set_fact(GUARDS, holds)


def _update(context: TickContext, row: CardRow, guards: Guards) -> bool:
    """Store a card's changed heat and guard and report it; return True where something changed."""
    heat = heat_of(row, guards)
    why = keeps_off(replace(row, heat=heat), guards)
    if (heat, why) == (row.heat, row.guard):
        return False
    with context.store.writing():
        card_table.update_card(context.store, row.uuid, heat=heat, guard=why)
        for level, text in _guard_news(row, heat, why, guards):
            context.store.note("guard", f"card {row.uuid} {text}", level=level)
    return True


def _guard_news(row: CardRow, heat: str, why: str, guards: Guards) -> Iterator[tuple[str, str]]:
    """Yield (level, text) for each change that matters to people."""
    if heat == "hot" and row.heat != "hot":
        then = f"trial {row.trial} pauses" if row.trial is not None else "it gets no trial"
        yield "warning", f"is at {row.temperature_c:.0f} °C: {then} until it has cooled"
    elif row.heat == "hot" and not heat:
        yield "info", "has cooled"
    if why.startswith(USED) and not row.guard.startswith(USED):
        if row.trial is not None:
            yield "warning", f"is {why} beside trial {row.trial}, which continues"
        else:
            yield "info", f"is left alone: {why}"
    elif row.guard.startswith(USED) and not why:
        idle = describe_programs(idle_programs(row, guards))
        yield "info", f"is shared with {idle}, idle for a minute" if idle else "is free again"


def heat_of(row: CardRow, guards: Guards) -> str:
    """Return an empty string, "warm" or "hot".

    A card has to cool by `cooled_by_c` below the limit before it is neither any more.
    """
    if row.temperature_c is None or row.problem:  # the temperature is unknown: a hot card stays hot
        return row.heat if row.problem else ""
    if row.temperature_c > guards.pause_above_c:
        return "hot"
    if row.temperature_c > guards.no_start_above_c:
        return row.heat or "warm"
    return row.heat if row.temperature_c > cooled_below_c(guards) else ""


def cooled_below_c(guards: Guards) -> float:
    """Return the temperature in °C below which a hot card takes trials again."""
    return guards.no_start_above_c - guards.cooled_by_c


def keeps_off(row: CardRow, guards: Guards) -> str:
    """Return why the card gets no new trial now; an empty string while it may."""
    if row.heat:
        seen = f"at {row.temperature_c:.0f} °C" if row.temperature_c is not None else "hot"
        return f"cools: {seen}, takes trials again at {cooled_below_c(guards):.0f} °C"
    return in_use(row, guards)


def in_use(row: CardRow, guards: Guards) -> str:
    """Return who uses the card; an empty string when nobody does, or when the user shares."""
    users = in_use_by(row, guards)
    return f"{USED} {describe_programs(users)}" if users else ""


def _end_idle_worker(context: TickContext, row: CardRow, guards: Guards) -> None:
    """End an idle worker on a card that is quarantined or that somebody else uses.

    The worker's base and CUDA context hold gigabytes.
    """
    report = context.reports.get(row.uuid)
    if report is None or report.phase is not Phase.IDLE or row.trial is not None:
        return
    if row.quarantined or in_use(row, guards):
        context.fleet.end(row.uuid, "its card is left alone")


# --- used by reconcile and recover ---------------------------------------------------------


def requested_halt(context: TickContext, attempt: AttemptRow) -> Halt | None:
    """Return how a guard wants this attempt to end; None while it may continue."""
    row = _card(context, attempt.card)
    return Halt.YIELD if row is not None and row.heat == "hot" else None


def yield_reason(context: TickContext, trial: TrialRow) -> str:
    """Return words for the event of a trial that gave its card back because of a guard."""
    row = _card(context, trial.card or "")
    return ": the card was too hot" if row is not None and row.heat == "hot" else ""


def why_unfit(context: TickContext, attempt: AttemptRow) -> str:
    """Return why this attempt cannot continue on its card; an empty string while it may."""
    row = _card(context, attempt.card)
    if row is None:
        return ""
    if row.quarantined:
        return f"card {row.uuid} is quarantined: {row.quarantined}"
    report = context.reports.get(row.uuid)
    still_s = float((report.data or {}).get("still_s") or 0.0) if report else 0.0
    return poisoned_reason(row, attempt, still_s, context.store.clock())


def poisoned_reason(row: CardRow, attempt: AttemptRow, still_s: float, now: float) -> str:
    """Return why the attempt's worker must be replaced; an empty string where it need not.

    It must where its program broke on the card and nothing has moved since.
    """
    for at_utc, code in row.xids:
        since_s = now - at_utc
        since_it = attempt.started_utc < at_utc and POISONED_S <= since_s <= still_s
        if since_it and xid.breaks_context(int(code)):
            return f"{xid.describe(int(code))} on {row.uuid}, and no progress for {still_s:.0f} s"
    return ""


def _card(context: TickContext, uuid: str) -> CardRow | None:
    return context.cards_by_uuid().get(uuid)
