"""The precision and the attention with which a card trains, read from its newest plan."""

from __future__ import annotations

from workbench.machine.history.minutes import CardMinute
from workbench.service.snapshots import CardDetail
from workbench.store.queries import attempt_history
from workbench.store.reader import Reader
from workbench.store.rows import CardRow, card_of


def card_detail(reader: Reader, card: CardRow, history: tuple[CardMinute, ...]) -> CardDetail:
    """Return the detail of a card; `history` are its minutes of the last day.

    Where nothing has run on the card, precision and attention are those of a recipe that names
    neither, and the planner is imported for them, which takes 0.2 s once.
    """
    from workbench.machine.attention import best_precision, precision_reason

    shared = best_precision([card_of(row) for row in reader.cards() if row.present or row == card])
    known, found = card_of(card), attempt_history.newest_on_card(reader, card.uuid)
    trial, plan, pid = found or (None, {}, None)
    if plan.get("attention_why"):
        precision, attention = str(plan["precision"]), str(plan["attention_why"])
    else:
        from workbench.footprint.card_limits import usual_attention

        trial, precision, attention = None, shared, usual_attention(known)
    return CardDetail(
        uuid=card.uuid,
        history=history,
        attention=attention,
        precision=f"{precision}: {precision_reason(known, precision, shared)}",
        planned_for=trial,
        worker_pid=pid,
    )
