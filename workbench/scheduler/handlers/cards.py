"""Handlers for cards: drain, undrain, and the end of a quarantine."""

from __future__ import annotations

from typing import Any

from workbench.errors import NotThere, UsageError
from workbench.fleet import Halt
from workbench.scheduler.handlers import accepted
from workbench.scheduler.tick_context import TickContext
from workbench.store import card_table
from workbench.store.rows import CardRow, RequestAnswer
from workbench.text import safe_line


def find_card(context: TickContext, word: object) -> CardRow:
    """Return the card with this uuid or this beginning of one.

    Raises NotThere or UsageError that lists the cards there are.
    """
    cards, name = context.store.cards(), str(word)
    exact = [card for card in cards if card.uuid == name]
    found = exact or [card for card in cards if name and card.uuid.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(card.uuid for card in found or cards) or "none"
    if found:
        raise UsageError(f"{safe_line(name, 60)} may be several cards", hint=f"which: {known}?")
    raise NotThere(f"there is no card {safe_line(name, 60)}", hint=f"there are: {known}")


def drain_card(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Place no new trial on the card; what runs there finishes, or (`now`) continues elsewhere."""
    card = find_card(context, args["card"])
    card_table.set_drained(context.store, card.uuid, True)
    attempt = next((a for a in context.store.live_attempts() if a.card == card.uuid), None)
    if attempt is None:
        then = "it is free now"
    elif args.get("now"):
        context.store.touch_attempt(attempt.id, halt=attempt.halt or Halt.YIELD)
        then = (
            f"trial {attempt.trial} checkpoints at its next step, gives it back, and goes on as "
            "soon as another card is free"
        )
    else:
        then = f"trial {attempt.trial} runs there to its end, then it is free"
    return accepted(f"card {card.uuid} takes no more trials; {then}", card=card.uuid)


def undrain_card(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Let the card take trials again; with `quarantine` also after a failure."""
    card = find_card(context, args["card"])
    card_table.set_drained(context.store, card.uuid, False)
    if args.get("quarantine"):
        card_table.set_quarantine(context.store, card.uuid, "")
    elif card.quarantined:
        but = f"once its quarantine ends ({card.quarantined})"
        return accepted(f"card {card.uuid} takes trials again {but}", card=card.uuid)
    return accepted(f"card {card.uuid} takes trials again", card=card.uuid)
