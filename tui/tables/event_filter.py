"""The filter of events: `trial:14`, `card:3090`, `level:warning`, and words for the rest.

The first three are for the reader of the store, so that old events are found too. A word is looked
for in the event's text, as a regular expression where it is one; `!` before it excludes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tui.tables.events import LEVELS, RANKS
from tui.tables.filters import text_finder
from workbench.service import EventRow, Snapshot

_NO_CARD = ("(no card)",)
"""In place of the UUIDs of cards where no card matches, so that no event does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """A filter that was read from what a user typed."""

    trial: int | None = None
    cards: tuple[str, ...] = ()
    """UUIDs; empty for every card and for events of none."""
    level: str = ""
    """The least level; empty where none was typed."""
    words: tuple[str, ...] = ()

    def matches(self, event: EventRow) -> bool:
        """Return whether every word is found in the event, and no excluded one is."""
        trial = "" if event.trial is None else f"#{event.trial}"
        text = f"{event.level} {event.kind} {trial} {event.text}".lower()
        return all(_holds(word, text) for word in self.words)


def _holds(word: str, text: str) -> bool:
    excludes = word.startswith("!") and len(word) > 1
    return text_finder(word[excludes:])(text) != excludes


def read_event_filter(text: str, snapshot: Snapshot | None) -> EventFilter:
    """Return the filter that `text` means; a term that is not whole yet counts as a word."""
    trial: int | None = None
    cards: tuple[str, ...] = ()
    level = ""
    words = []
    for word in text.split():
        field, _, value = word.lower().partition(":")
        number = value.removeprefix("#")
        if field == "trial" and number.isascii() and number.isdigit():
            trial = int(number)
        elif field == "card" and value:
            cards = _cards_with(value, snapshot) or _NO_CARD
        elif field == "level" and (found := [one for one in LEVELS if one.startswith(value)]):
            level = found[0] if value else level
        else:
            words.append(word)
    return EventFilter(trial=trial, cards=cards, level=level, words=tuple(words))


def _cards_with(value: str, snapshot: Snapshot | None) -> tuple[str, ...]:
    """Return the cards with that number in nvidia-smi, or with that text in name or UUID."""
    if snapshot is None:
        return ()
    numbers = {str(number): uuid for uuid, (number, _) in snapshot.slots.items()}
    if value in numbers:
        return (numbers[value],)
    finds = text_finder(value)
    return tuple(card.uuid for card in snapshot.cards if finds(f"{card.uuid} {card.name}".lower()))


def levels_from(least: str) -> tuple[str, ...]:
    """Return the levels from `least` upwards."""
    return tuple(
        sorted((one for one in RANKS if RANKS[one] >= RANKS[least]), key=RANKS.__getitem__)
    )


def toggle_term(text: str, term: str) -> str:
    """Return the filter with the term, in place of another one of its field; or without it."""
    field = term.partition(":")[0]
    rest: Sequence[str] = [word for word in text.split() if word.partition(":")[0] != field]
    return " ".join(rest if term in text.split() else [*rest, term])
