"""Choice of the card for a foreground trial: by free bytes, and not one that a worker owns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.errors import NotThere
from workbench.footprint.card_limits import limit_bytes
from workbench.home import Home
from workbench.machine.cards import Card, cards_from, detect_cards
from workbench.machine.locks import Lock, lock_holder
from workbench.machine.nvml import Driver, DriverProblem, NvmlDriver
from workbench.text import safe_line


@dataclass(frozen=True, slots=True, kw_only=True)
class ForegroundCard:
    """The card that a foreground trial runs on."""

    card: Card
    free_bytes: int | None
    """Bytes that the driver reports as free; None on a CPU card."""
    holder: int | None
    """Process that owns the card, with which the trial shares it; None if nobody does."""
    lock: Lock | None
    """The card's lock while this object lives, so that no engine starts a trial there; None where
    another process holds it, and on a CPU card."""


def choose_card(
    env: Mapping[str, str], home: Home, named: str | None = None, driver: Driver | None = None
) -> ForegroundCard:
    """Return the card with the most free bytes among those that no other process owns.

    `named` is a card's uuid, or the beginning of one: that card is taken even if it is owned. Where
    every card is owned, the one with the most free bytes is shared. Raises NotThere where no card
    has that name, and the errors of detect_cards.
    """
    cards, free = _cards_with_free_bytes(env, driver or NvmlDriver())
    candidates = _named_cards(cards, named) if named else cards
    roomiest = sorted(candidates, key=lambda card: -limit_bytes(card, free.get(card.uuid)))
    for card in roomiest:
        found = _owned(card, free.get(card.uuid), home)
        if found.holder is None:
            return found
    return _owned(roomiest[0], free.get(roomiest[0].uuid), home)


def _cards_with_free_bytes(
    env: Mapping[str, str], driver: Driver
) -> tuple[Sequence[Card], dict[str, int]]:
    try:
        facts = driver.gpus()
    except DriverProblem:  # CPU cards work without a driver; else this raises with a hint
        return detect_cards(env, driver), {}
    cards = cards_from(env, facts)
    free = {fact.uuid: fact.free_bytes for fact in facts}
    return cards, {card.uuid: free[card.uuid] for card in cards if card.uuid in free}


def _named_cards(cards: Sequence[Card], named: str) -> list[Card]:
    found = [card for card in cards if card.uuid.startswith(named)]
    if not found:
        known = ", ".join(f"{card.uuid} ({card.name})" for card in cards)
        raise NotThere(f"there is no card {safe_line(named, 60)}", hint=f"cards here: {known}")
    return found


def _owned(card: Card, free_bytes: int | None, home: Home) -> ForegroundCard:
    """Return the card with its lock taken, or with the process that owns it."""
    path, lock = home.card_lock(card.uuid, card.kind), None
    holder = lock_holder(path) if path.exists() else None
    # The lock of a CPU card lies in the home, which a foreground trial does not need.
    if holder is None and card.kind == "cuda":
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = Lock(path)
        if not lock.take():
            holder, lock = lock_holder(path) or 0, None
    return ForegroundCard(card=card, free_bytes=free_bytes, holder=holder, lock=lock)
