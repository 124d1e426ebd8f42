"""The cards of a cluster in groups: a line for each machine above its cards, and facts about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tui.paint import Line, Span, plain_part
from tui.tables import cards as table
from tui.tables.filters import rows_with, text_finder
from tui.widgets.columns import GAP, Column
from tui.widgets.lazy_rows import LazyRows, ListRow
from workbench import formatting
from workbench.machine.cards import is_elsewhere, machine_of
from workbench.service import CardRow, TrialRow

HEAD = "head"
"""The name of the head's group."""
FIELD = "box:"
"""Begins the term of a filter that shows the cards of one machine."""
_NARROWEST = 38
"""Cells of one machine at least, where they stand beside each other."""
_MARK = ":"
"""Ends the key of a machine's line; no card's UUID ends so."""

Groups = dict[str, list[CardRow]]
"""The cards of each machine by its name, the head first."""


def is_cluster(cards: Sequence[CardRow]) -> bool:
    """Return whether any card is another machine's."""
    return any(is_elsewhere(card.uuid) for card in cards)


def box_groups(cards: Sequence[CardRow], terms: str = "") -> Groups:
    """Return the cards by machine, as far as `box:` terms of a filter leave them."""
    finds = [
        text_finder(word.removeprefix(FIELD))
        for word in terms.lower().split()
        if word.startswith(FIELD) and word != FIELD
    ]
    groups: Groups = {}
    for card in cards:
        groups.setdefault(machine_of(card.uuid) or HEAD, []).append(card)
    names = sorted(groups, key=lambda name: (name != HEAD, name))
    return {
        name: groups[name] for name in names if all(finds_it(name.lower()) for finds_it in finds)
    }


def key_of_box(name: str) -> str:
    """Return the key of a machine's line in the list."""
    return f"{name}{_MARK}"


def box_of_key(key: object) -> str:
    """Return the machine whose line has that key; an empty string for a card's."""
    text = str(key)
    return text.removesuffix(_MARK) if text.endswith(_MARK) else ""


def box_columns(cards: Sequence[CardRow]) -> tuple[Column, ...]:
    """Return the columns of grouped cards; ids always show, which tell a box's cards apart."""
    drop = {"id": 0, "": 6, "busy": 5}
    return tuple(
        replace(column, drop=drop.get(column.title, column.drop))
        for column in table.card_columns(cards)
    )


def grouped_rows(
    groups: Groups,
    trials: Sequence[TrialRow],
    now: float,
    slots: Mapping[str, tuple[int, str]],
    words: str,
) -> tuple[LazyRows, int]:
    """Return the line of each machine and the rows of its cards, and how many cards are shown.

    `words` is a filter; its `box:` terms are those of `box_groups`, the others are looked for in
    the cards' rows. Without them, only rows in sight are built.
    """
    every = [card for cards in groups.values() for card in cards]
    rows = table.lazy_card_rows(every, trials, now, lambda card: own_label(card, slots))
    words = " ".join(word for word in words.split() if not word.startswith(FIELD))
    kept = {row.key for row in rows_with(rows, words)} if words else None
    places: list[int | str] = []
    keys: list[str] = []
    at = shown = 0
    for name, cards in groups.items():
        mine = [at + n for n, card in enumerate(cards) if kept is None or card.uuid in kept]
        at, shown = at + len(cards), shown + len(mine)
        if mine:
            places += [name, *mine]
            keys += [key_of_box(name), *(every[place].uuid for place in mine)]

    def build(place: int) -> ListRow:
        which = places[place]
        if isinstance(which, str):
            return ListRow(key_of_box(which), (Span(box_line(which, groups[which])),))
        return rows[which]

    return LazyRows(keys, build), shown


def own_label(card: CardRow, slots: Mapping[str, tuple[int, str]]) -> str:
    """Return the card's name without that of its box, which stands above it."""
    return table.card_label(card, slots).removesuffix(f" of {machine_of(card.uuid)}")


def box_line(name: str, cards: Sequence[CardRow]) -> Line:
    """Return a machine's line: `attic · 7 of 8 busy · bytes`, with what keeps it from work."""
    is_here = any(card.present for card in cards)
    count = table.busy_count(cards) if is_here else formatting.plural(len(cards), "card")
    gib = formatting.size(sum(card.total_bytes for card in cards))
    said: Line = ((f" · {count} · {gib}", "dim"),)
    return (plain_part(name, "bold"), *said, *_trouble(cards))


def _trouble(cards: Sequence[CardRow]) -> Line:
    if not any(card.present for card in cards):
        return ((" ✗ not connected", "bad"),)
    problems = {card.problem for card in cards if card.present}
    if len(problems) == 1 and (problem := problems.pop()):
        return ((" ! ", "warn"), plain_part(problem, "warn"))
    hot = sum(card.heat == "hot" for card in cards)
    return ((f" {hot} hot", "bad"),) if hot else ()


def box_facts(name: str, cards: Sequence[CardRow], box: Mapping[str, Any]) -> list[Line]:
    """Return everything known about a machine, one fact a line; `box` is as `cluster ls` has it."""
    sizes = sorted({formatting.size(card.total_bytes) for card in cards})
    facts: list[tuple[str, Line]] = [
        ("machine", (plain_part("the head" if name == HEAD else f"box {name}", "bold"),)),
        ("cards", ((f"{len(cards)} of {', '.join(sizes)}; {table.busy_count(cards)}", ""),)),
    ]
    for key, word in (("address", "address"), ("state", "state")):
        if box.get(key):
            facts.append((word, (plain_part(str(box[key]), _state_tone(box[key])),)))
    if text := box.get("problem") or box.get("skewed"):
        facts.append(("problem", (plain_part(str(text), "warn", 600),)))
    if box.get("free_bytes") is not None:
        facts.append(("free disk", ((formatting.size(box["free_bytes"]), ""),)))
    if (skew_s := box.get("skew_s")) is not None:
        off = abs(skew_s) >= formatting.SKEW_S
        text = formatting.clock_skew(skew_s) if off else "agrees with the head's"
        facts.append(("clock", ((text, "warn" if off else ""),)))
    if to_send := box.get("to_send_bytes"):
        sent = formatting.size(box.get("sent_bytes"))
        facts.append(("files", ((f"{sent} of {formatting.size(to_send)} sent", ""),)))
    return [((f"{word:<20}", "dim"), *line) for word, line in facts]


def _state_tone(state: object) -> str:
    return {"lost": "bad", "unusable": "warn"}.get(str(state), "")


def strip_of_boxes(
    groups: Groups, cells: int, most: int
) -> tuple[tuple[Column, ...], list[ListRow]]:
    """Return columns and rows of at most `most` lines with a machine in each cell.

    Machines with a trouble come first. What has no room is counted in the last cell.
    """
    fits = (cells + GAP) // (_NARROWEST + GAP)
    beside = max(1, min(-(-len(groups) // most), fits))
    width = (cells - GAP * (beside - 1)) // beside
    room = beside * most
    names = sorted(groups, key=lambda name: not _trouble(groups[name]))
    shown = names if len(names) <= room else names[: room - 1]
    texts = [box_line(name, groups[name]) for name in shown]
    if len(shown) < len(names):
        texts.append(((f"and {len(names) - len(shown)} more machines", "dim"),))
    lines = -(-len(texts) // beside)
    rows = [
        ListRow(key_of_box(names[y]), tuple(texts[at] for at in range(y, len(texts), lines)))
        for y in range(lines)
    ]
    return tuple(Column(title="", width=width) for _ in range(beside)), rows
