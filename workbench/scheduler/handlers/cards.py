"""Handlers for cards: drain, undrain, and the end of a quarantine."""

from __future__ import annotations

from typing import Any

from workbench.errors import NotThere, UsageError
from workbench.fleet import Halt
from workbench.machine.cards import is_elsewhere
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


def find_box(context: TickContext, word: object) -> list[CardRow]:
    """Return the cards of a cluster's box by its name; NotThere lists the boxes there are."""
    elsewhere = [card for card in context.store.cards() if is_elsewhere(card.uuid)]
    found = [card for card in elsewhere if card.uuid.partition(":")[0] == word]
    if not found:
        known = ", ".join(sorted({card.uuid.partition(":")[0] for card in elsewhere})) or "none"
        raise NotThere(f"there is no box {safe_line(word, 60)}", hint=f"there are: {known}")
    return found


def drain_card(context: TickContext, args: dict[str, Any]) -> RequestAnswer:
    """Place no new trial on the card; what runs there finishes, or (`now`) continues elsewhere.

    `box` in place of `card` means all cards of that box.
    """
    if args.get("box"):
        return _drain_box(context, str(args["box"]), now=bool(args.get("now")))
    return _drain(context, find_card(context, args["card"]), args)


def _drain_box(context: TickContext, box: str, *, now: bool) -> RequestAnswer:
    """Drain every card of a cluster's box, and answer what becomes of its trials."""
    cards = find_box(context, box)
    for card in cards:
        _drain(context, card, {"now": now})
    here = {card.uuid for card in cards}
    trials = sorted(one.trial for one in context.store.live_attempts() if one.card in here)
    then = "it is free now"
    if trials:
        words = f"trial{'s' * (len(trials) > 1)} {', '.join(map(str, trials))}"
        then = f"after {words} it is free"
        if now:
            then = f"{words} checkpoint at the next step, and go on as soon as other cards are free"
    return accepted(f"box {box} takes no more trials; {then}", box=box, trials=trials)


def _drain(context: TickContext, card: CardRow, args: dict[str, Any]) -> RequestAnswer:
    """Drain one card, and answer what becomes of the trial on it."""
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
    """Let the card take trials again; with `quarantine` also after a failure.

    `box` in place of `card` means all cards of that box.
    """
    if args.get("box"):
        box = str(args["box"])
        for card in find_box(context, box):
            card_table.set_drained(context.store, card.uuid, False)
        return accepted(f"box {box} takes trials again", box=box)
    card = find_card(context, args["card"])
    card_table.set_drained(context.store, card.uuid, False)
    if args.get("quarantine"):
        card_table.set_quarantine(context.store, card.uuid, "")
    elif card.quarantined:
        but = f"once its quarantine ends ({card.quarantined})"
        return accepted(f"card {card.uuid} takes trials again {but}", card=card.uuid)
    return accepted(f"card {card.uuid} takes trials again", card=card.uuid)
