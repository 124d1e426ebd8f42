"""Writes to the table of cards: samples, guards, energy, drain and quarantine."""

from __future__ import annotations

from typing import Any

from workbench.errors import StoreError
from workbench.store.writer import Store
from workbench.text import safe_line, safe_text

_DRIVER_TEXT = frozenset({"uuid", "name", "problem"})
"""Columns whose text comes from a driver, and so may hold anything."""


def record_cards(store: Store, cards: list[dict[str, Any]]) -> None:
    """Record the newest sample: update known cards, add new ones, and mark others as absent.

    Each of `cards` holds columns of the table by name, with `uuid` among them.
    """
    now = store.clock()
    with store.writing():
        store.db.execute("update cards set present = 0")
        for card in cards:
            row = {"present": 1, "seen_utc": now, **card}
            row |= {k: safe_line(v) for k, v in row.items() if k in _DRIVER_TEXT and v}
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            sets = ", ".join(f"{name} = excluded.{name}" for name in row)
            store.db.execute(
                f"""insert into cards ({names}) values ({marks})
                    on conflict (uuid) do update set {sets}""",
                row,
            )


def update_card(store: Store, uuid: str, **values: Any) -> None:
    """Set columns that the guards decide, for example heat and guard."""
    sets = ", ".join(f"{name} = :{name}" for name in values)
    with store.writing():
        store.db.execute(f"update cards set {sets} where uuid = :uuid", {**values, "uuid": uuid})


def bill_energy(
    store: Store, uuid: str, since_utc: float, until_utc: float, energy_wh: float
) -> None:
    """Charge the energy that a card drew between two moments to the attempts that ran meanwhile.

    Each attempt gets the share of that time in which it ran; the card gets their sum.
    """
    span = {"card": uuid, "since": since_utc, "until": until_utc, "wh": energy_wh}
    with store.writing():
        for row in store.db.execute(
            """select id, ended_utc is not null as ended,
                      (min(coalesce(ended_utc, :until), :until) - max(started_utc, :since))
                      / (:until - :since) * :wh as wh
               from attempts where card = :card and started_utc < :until
                 and (ended_utc is null or ended_utc > :since)""",
            span,
        ).fetchall():
            # The journal writes an attempt down when its outcome is set, so an ended attempt's
            # outcome is set once more; a live one is written down at its end.
            store.db.execute(
                """update attempts set energy_wh = coalesce(energy_wh, 0) + ?,
                   outcome = outcome where id = ?"""
                if row["ended"]
                else "update attempts set energy_wh = coalesce(energy_wh, 0) + ? where id = ?",
                (row["wh"], row["id"]),
            )
            store.db.execute(
                "update cards set energy_wh = coalesce(energy_wh, 0) + ? where uuid = ?",
                (row["wh"], uuid),
            )


def next_generation(store: Store, uuid: str) -> int:
    """Return a number that no worker of this card has had; StoreError for an unknown card."""
    query = "update cards set generation = generation + 1 where uuid = ? returning generation"
    with store.writing():
        row = store.db.execute(query, (uuid,)).fetchone()
        if row is None:
            raise StoreError(f"there is no card {uuid}")
        return int(row[0])


def set_drained(store: Store, uuid: str, drained: bool) -> None:
    """Set whether a person keeps new trials off a card."""
    with store.writing():
        store.db.execute("update cards set drained = ? where uuid = ?", (int(drained), uuid))


def set_quarantine(store: Store, uuid: str, reason: str) -> None:
    """Quarantine a card for `reason`, or release it where that is empty.

    Either way, attempts that the card has lost so far no longer count against it.
    """
    with store.writing():
        store.db.execute(
            """update cards set quarantined = ?,
               forgiven = (select coalesce(max(id), 0) from attempts) where uuid = ?""",
            (safe_text(reason), uuid),
        )
