"""Cards: drain, undrain, and an end to a quarantine."""

from __future__ import annotations

from typing import Any

from workbench.errors import NotThere, UsageError
from workbench.fleet import Halt
from workbench.scheduler.desk import Desk
from workbench.scheduler.verbs import done
from workbench.store.rows import Answer, CardRow
from workbench.text import safe_line


def find_card(desk: Desk, word: object) -> CardRow:
    """By its uuid or the beginning of it; NotThere or UsageError with what there is."""
    cards, name = desk.store.cards(), str(word)
    exact = [card for card in cards if card.uuid == name]
    found = exact or [card for card in cards if name and card.uuid.startswith(name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(card.uuid for card in found or cards) or "none"
    if found:
        raise UsageError(f"{safe_line(name, 60)} may be several cards", mend=f"which: {known}?")
    raise NotThere(f"there is no card {safe_line(name, 60)}", mend=f"there are: {known}")


def drain(desk: Desk, args: dict[str, Any]) -> Answer:
    """No new trial on it; what runs there finishes, or (`now`) goes on elsewhere."""
    card = find_card(desk, args["card"])
    desk.store.drain(card.uuid, True)
    attempt = next((a for a in desk.store.live_attempts() if a.card == card.uuid), None)
    if attempt is None:
        then = "it is free now"
    elif args.get("now"):
        desk.store.touch_attempt(attempt.id, halt=attempt.halt or Halt.YIELD)
        then = (
            f"trial {attempt.trial} checkpoints at its next step, gives it back, and goes on as "
            "soon as another card is free"
        )
    else:
        then = f"trial {attempt.trial} runs there to its end, then it is free"
    return done(f"card {card.uuid} takes no more trials; {then}", card=card.uuid)


def undrain(desk: Desk, args: dict[str, Any]) -> Answer:
    """It takes trials again; `quarantine`: also where it was taken out of use for a failure."""
    card = find_card(desk, args["card"])
    desk.store.drain(card.uuid, False)
    if args.get("quarantine"):
        desk.store.quarantine(card.uuid, "")
    elif card.quarantined:
        but = f"once its quarantine ends ({card.quarantined})"
        return done(f"card {card.uuid} takes trials again {but}", card=card.uuid)
    return done(f"card {card.uuid} takes trials again", card=card.uuid)
