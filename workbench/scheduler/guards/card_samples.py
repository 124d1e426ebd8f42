"""Samples of the cards: what changed since the last one, in rows, energy and quarantine.

`TickContext.refresh` calls `see_sample` with each new sample. It imports no other part of the
scheduler, so that the context can.
"""

from __future__ import annotations

import json
from typing import Any

from workbench.machine import xid
from workbench.scheduler.guards.energy import drawn_wh
from workbench.scheduler.guards.idle_programs import Rests, with_idle_times
from workbench.store import Store, card_table
from workbench.store.queries import attempt_history
from workbench.store.rows import CARD_SLOTS, CardRow

OURS_S = 5.0
"""Seconds after the end of a trial for which a card's utilisation may still be the trial's."""


def see_sample(
    store: Store, metered: dict[str, CardRow], rests: Rests, seen: list[dict[str, Any]]
) -> None:
    """Store the newest sample in one commit: the cards' rows, their energy, cards that failed.

    `seen` has the cards without our own processes. `metered` holds the cards as they were when
    their energy was last recorded, `rests` since when other programs are idle; both are updated.
    """
    seen = _keep_slots(store, seen)
    with store.writing():
        before = {row.uuid: row for row in store.cards()}
        for card in seen:
            ran = _ours_ran(store, before.get(card["uuid"]))
            foreign = with_idle_times(rests, card, ours_ran=ran, now=store.clock())
            card["processes"] = json.dumps(foreign)
        card_table.record_cards(store, seen)
        rows = [row for row in store.cards() if row.present]
        for row in rows:
            last = metered.get(row.uuid)
            if last is not None and (energy_wh := drawn_wh(last, row)) is not None:
                card_table.bill_energy(store, row.uuid, last.seen_utc, row.seen_utc, energy_wh)
            _judge(store, before.get(row.uuid), row)
    metered |= {row.uuid: row for row in rows if not row.problem}


def _ours_ran(store: Store, row: CardRow | None) -> bool:
    """Return True where a trial of ours runs on the card, or ended a moment ago."""
    if row is None or row.trial is not None:
        return row is not None
    ended_utc = attempt_history.last_end(store, row.uuid)
    return ended_utc is not None and 0 <= store.clock() - ended_utc < OURS_S


def _keep_slots(store: Store, seen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store each card's number and slot where they changed; return the sample without them.

    They are a fact and no columns: they change with the machine and not with the card.
    """
    slots = {card["uuid"]: [card.get("index"), card.get("bus", "")] for card in seen}
    kept = json.dumps({uuid: slot for uuid, slot in slots.items() if slot[0] is not None})
    if kept != (store.fact(CARD_SLOTS) or "{}"):
        store.set_fact(CARD_SLOTS, kept)
    return [
        {key: value for key, value in card.items() if key not in ("index", "bus")} for card in seen
    ]


def _judge(store: Store, before: CardRow | None, row: CardRow) -> None:
    """Report what happened to the card since, and quarantine it when it failed."""
    for code in fresh_xids(before, row):
        level = "info" if xid.blamed_part(code) is xid.Fault.NOTICE else "warning"
        store.note("xid", f"card {row.uuid}: {xid.describe(code)}", level=level)
    if before is not None and before.lost and not row.lost:
        still = "; it is still quarantined" if row.quarantined else ""
        store.note("card-back", f"card {row.uuid} is back{still}")
    why = card_failure(before, row)
    if why and not row.quarantined:
        short = row.uuid[: row.uuid.find(":") + 13]  # 12 characters behind the name of a box
        card_table.set_quarantine(
            store, row.uuid, f"{why}. Then: workbench undrain {short} --quarantine"
        )
        store.note("quarantined", f"card {row.uuid} is quarantined: {why}", level="error")


def fresh_xids(before: CardRow | None, now: CardRow) -> list[int]:
    """Return the Xid codes reported since `before`.

    They are told apart by their times, so that a clock that was set back hides none.
    """
    known = before.xids if before is not None else []
    return [int(code) for at_utc, code in now.xids if [at_utc, code] not in known]


def card_failure(before: CardRow | None, now: CardRow) -> str:
    """Return why the card cannot be trusted any more, with what to do; empty while it can."""
    for code in fresh_xids(before, now):
        if xid.blamed_part(code) is xid.Fault.CARD:
            return f"{xid.describe(code)}; {xid.repair_hint(code)}"
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
    """Return the processes without the one that is taken for our worker.

    In a container NVML reports the host's pids, so our worker is not recognised by its pid: the
    largest process whose pid has no name here is taken for ours.
    """
    strangers = [one for one in processes if not one.get("name") and not one.get("draws")]
    if not strangers:
        return processes
    ours = max(strangers, key=lambda one: int(one.get("bytes") or 0))
    return [one for one in processes if one is not ours]
