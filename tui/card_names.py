"""The names of cards in place of their UUIDs, in sentences that the engine wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from tui.tables.cards import short_name
from workbench import formatting
from workbench.service import CardRow, EventRow, Snapshot

Naming = Callable[[str], str]
"""A function that returns a sentence with the names of the cards in it."""


def card_name(uuid: str, cards: Sequence[CardRow], slots: Mapping[str, tuple[int, str]]) -> str:
    """Return `card 1 (RTX 3090)` by the number in nvidia-smi, else `RTX 3090 GPU-a02b`.

    `slots` has the numbers. A CPU card has its name, an unknown one its UUID.
    """
    card = next((one for one in cards if one.uuid == uuid), None)
    if card is None:
        return uuid
    name = short_name(card.name)
    if uuid in slots:
        return f"card {slots[uuid][0]} ({name})"
    return name if card.kind == "cpu" else f"{name} {formatting.short_uuid(uuid)}"


def card_naming(snapshot: Snapshot, *, brief: bool = False) -> Naming:
    """Return the function that names the snapshot's cards in a sentence.

    A `brief` name is `card 1`, where the number is known: the list of cards has the rest.
    """
    cards, slots = snapshot.cards, snapshot.slots
    names = {card.uuid: card_name(card.uuid, cards, slots) for card in cards}
    if brief:
        names |= {uuid: f"card {slots[uuid][0]}" for uuid in names if uuid in slots}
    if not names:
        return lambda text: text
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    found = re.compile(rf"(?<![\w-])(?:card )?({'|'.join(longest_first)})(?![\w-])")
    return lambda text: found.sub(lambda match: names[match[1]], text)


def name_cards(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot whose trials name the cards that they wait for or failed on."""
    waits = _named({row.waiting for row in snapshot.trials}, card_naming(snapshot, brief=True))
    reasons = _named({row.reason for row in snapshot.trials}, card_naming(snapshot))
    trials = [
        row
        if waits[row.waiting] == row.waiting and reasons[row.reason] == row.reason
        else replace(row, waiting=waits[row.waiting], reason=reasons[row.reason])
        for row in snapshot.trials
    ]
    return replace(snapshot, trials=trials)


def _named(texts: set[str], named: Naming) -> dict[str, str]:
    return {text: named(text) for text in texts}


def name_in_events(events: Sequence[EventRow], snapshot: Snapshot) -> tuple[EventRow, ...]:
    """Return the events with the names of cards in their text."""
    named = card_naming(snapshot)
    return tuple(
        replace(one, text=text) if (text := named(one.text)) != one.text else one for one in events
    )
