"""Cards: drain, undrain, and an end to a quarantine."""

from __future__ import annotations

from typing import Any

from workbench.errors import NotThere, UsageError
from workbench.fleet import Halt
from workbench.scheduler.handlers import done
from workbench.scheduler.tick_context import TickContext
from workbench.store.rows import Answer, CardRow
from workbench.text import safe_line


def find_card(context: TickContext, word: object) -> CardRow:
    """By its uuid or the beginning of it; NotThere or UsageError with what there is."""
    cards, name = context.store.cards(), str(word)
    exact = [card for card in cards if card.uuid == name]
    found = exact or [card for card in cards if name and card.uuid.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(card.uuid for card in found or cards) or "none"
    if found:
        raise UsageError(f"{safe_line(name, 60)} may be several cards", hint=f"which: {known}?")
    raise NotThere(f"there is no card {safe_line(name, 60)}", hint=f"there are: {known}")


def drain(context: TickContext, args: dict[str, Any]) -> Answer:
    """No new trial on it; what runs there finishes, or (`now`) goes on elsewhere."""
    card = find_card(context, args["card"])
    context.store.drain(card.uuid, True)
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
    return done(f"card {card.uuid} takes no more trials; {then}", card=card.uuid)


def undrain(context: TickContext, args: dict[str, Any]) -> Answer:
    """It takes trials again; `quarantine`: also where it was taken out of use for a failure."""
    card = find_card(context, args["card"])
    context.store.drain(card.uuid, False)
    if args.get("quarantine"):
        context.store.quarantine(card.uuid, "")
    elif card.quarantined:
        but = f"once its quarantine ends ({card.quarantined})"
        return done(f"card {card.uuid} takes trials again {but}", card=card.uuid)
    return done(f"card {card.uuid} takes trials again", card=card.uuid)
