"""Cards as rows, and every fact about one card as lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tui import present
from tui.paint import Gauge, Line, Part, plain_part
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import LazyRows, ListRow
from workbench import formatting
from workbench.machine import xid
from workbench.machine.cards import is_elsewhere
from workbench.service import CardDetail, CardRow, TrialRow

_ABSENT = "the driver no longer reports it; the kernel's log (dmesg) may say why"
_AWAY = "its box is not connected, or no longer reports it; `workbench cluster doctor` says more"


def card_columns(cards: Sequence[CardRow]) -> tuple[Column, ...]:
    """Return the columns; temperature and power have one only where a card measures them."""
    heat, power = _measures(cards)
    return (
        Column(title="card", width=10, most=22, grow=2),
        Column(title="id", width=8, drop=2),
        Column(title="", width=5, most=40, grow=4, drop=1),
        Column(title="memory", width=13, right=True),
        Column(title="busy", width=4, right=True),
        *([Column(title="temp", width=5, right=True, drop=3)] if heat else []),
        *([Column(title="power", width=5, right=True, drop=4)] if power else []),
        Column(title="doing", width=16, grow=3),
    )


def _measures(cards: Sequence[CardRow]) -> tuple[bool, bool]:
    return (
        any(card.temperature_c is not None for card in cards),
        any(card.power_w is not None for card in cards),
    )


def card_rows(
    cards: Sequence[CardRow],
    trials: Sequence[TrialRow],
    now: float,
    slots: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> list[ListRow]:
    """Return a row for each card; old measurements are shown as unknown.

    `slots` has the numbers of nvidia-smi, by which two cards of one model are told apart.
    """
    return list(lazy_card_rows(cards, trials, now, lambda card: card_label(card, slots)))


def lazy_card_rows(
    cards: Sequence[CardRow],
    trials: Sequence[TrialRow],
    now: float,
    label: Callable[[CardRow], str],
) -> LazyRows:
    """Return the same rows, each built when it is looked at, with the names that `label` gives."""
    held = {card.trial for card in cards}
    by_id = {row.id: row for row in trials if row.id in held}
    measures = _measures(cards)

    def build(place: int) -> ListRow:
        card = cards[place]
        return _row(card, by_id.get(card.trial or 0), now, measures, label(card))

    return LazyRows([card.uuid for card in cards], build)


def card_label(card: CardRow, slots: Mapping[str, tuple[int, str]]) -> str:
    """Return the card's number in nvidia-smi and its name: `0 RTX 4090`."""
    name = short_name(card.name)
    return f"{slots[card.uuid][0]} {name}" if card.uuid in slots else name


def number_order(cards: Sequence[CardRow], slots: Mapping[str, tuple[int, str]]) -> list[CardRow]:
    """Return the cards as nvidia-smi numbers them, then those without a number."""
    return sorted(cards, key=lambda card: slots.get(card.uuid, (len(slots) + 1_000, ""))[0])


def busy_count(cards: Sequence[CardRow]) -> str:
    """Return `3 of 4 busy`, or `2 of 3 busy · 1 absent` where the driver has lost a card.

    Empty without cards.
    """
    here = [card for card in cards if card.present]
    busy = f"{sum(card.trial is not None for card in here)} of {len(here)} busy"
    absent = f"{len(cards) - len(here)} absent" if len(here) < len(cards) else ""
    return " · ".join(filter(None, (busy, absent))) if cards else ""


def _row(
    card: CardRow, trial: TrialRow | None, now: float, shows: tuple[bool, bool], label: str
) -> ListRow:
    heat, power = shows
    old = card.is_old(now)
    used = used_bytes(card, now)
    share = None if used is None else used / card.total_bytes
    full = share is not None and share > 0.95
    degrees, watts = formatting.temperature(card.temperature_c), formatting.power(card.power_w)
    return ListRow(
        card.uuid,
        (
            (plain_part(label, "bold" if card.present else "dim"),),
            ((formatting.short_uuid(card.uuid.rpartition(":")[2]), "dim"),),
            Gauge(share, "warn" if full else "live"),
            (
                (
                    formatting.size_of_total(used, card.total_bytes),
                    "" if used is not None else "dim",
                ),
            ),
            _measured(None if old else _busy(card), "dim"),
            *([_measured(None if old else degrees, _heat(card))] if heat else []),
            *([_measured(None if old else watts, "dim")] if power else []),
            card_activity(card, trial),
        ),
    )


def used_bytes(card: CardRow, now: float) -> int | None:
    """Return the bytes in use; None where the reading is old, and for a CPU card.

    Nothing measures how much of a CPU card is used: its free memory is that of the whole machine.
    """
    if card.free_bytes is None or card.kind == "cpu" or card.is_old(now):
        return None
    return card.total_bytes - card.free_bytes


def short_name(name: str) -> str:
    """Return a card's name without the maker and the series: `RTX 4090`, `T4`."""
    return name.removeprefix("NVIDIA ").removeprefix("GeForce ").removeprefix("Tesla ")


def _measured(text: str | None, tone: str) -> Line:
    return present.known_or_faint(text or formatting.UNKNOWN, tone)


def _busy(card: CardRow) -> str:
    return formatting.percent(None if card.utilisation is None else card.utilisation / 100)


def _heat(card: CardRow) -> str:
    return {"hot": "bad", "warm": "warn"}.get(card.heat, "dim")


def card_activity(card: CardRow, trial: TrialRow | None, *, whole: bool = False) -> Line:
    """Return the card's trial with its phase, or why the card has none; the `whole` reason."""
    if not card.present:
        return (("✗ absent", "bad"),)
    if card.quarantined:
        return (("✗ quarantined", "bad"),)
    drain: Line = ((" drained", "warn"),) if card.drained else ()
    if trial is not None:
        return (
            ("● ", "live"),
            (formatting.trial_label(trial), ""),
            (" ", ""),
            plain_part(trial.phase or "starting", "dim", 12),
            *drain,
        )
    if card.problem:
        return (("! ", "warn"), plain_part(card.problem, "warn"))
    if card.guard:
        return (
            ("‖ ", "warn"),
            plain_part(card.guard if whole else _brief_guard(card.guard), "warn"),
        )
    return (("‖", "warn"), *drain) if drain else (("○ free", "dim"),)


def _brief_guard(guard: str) -> str:
    """Return the program instead of its number, where the card is left to another program."""
    found = re.fullmatch(r"in use by pid \d+ \((.+?)\)(.*)", guard)
    return guard if found is None else f"{found[1]}{found[2]}"


def card_facts(
    card: CardRow,
    trial: TrialRow | None,
    now: float,
    guards: Mapping[str, Any],
    slot: tuple[int, str] | None = None,
    detail: CardDetail | None = None,
) -> list[Line]:
    """Return everything known about the card, one fact a line.

    `guards` are the engine's temperature limits; empty without an engine. `slot` has the card's
    number in nvidia-smi and its slot on the PCI bus. `detail` is None until it has been read.
    """
    facts: list[tuple[str, Line]] = [
        ("card", (plain_part(card.name, "bold"),)),
        *(
            [("in nvidia-smi", (plain_part(f"{slot[0]}, slot {slot[1] or 'unknown'}"),))]
            if slot is not None
            else []
        ),
        ("uuid", (plain_part(card.uuid),)),
        ("seen", ((formatting.age(now - card.seen_utc), ""),)),
    ]
    if card.capability:
        facts.append(("compute capability", (plain_part(card.capability),)))
    if card.present:
        facts += _present_facts(card, trial, guards, detail)
    else:
        # The last readings say nothing about a card that is not there.
        facts.append(("memory", ((formatting.size(card.total_bytes), ""),)))
        why = _AWAY if is_elsewhere(card.uuid) else _ABSENT
        facts.insert(1, ("absent", ((why, "bad"),)))
    if card.quarantined:
        facts.append(("quarantined", (plain_part(card.quarantined, "bad", 600),)))
    elif card.guard and trial is not None and card.present:
        facts.append(("after this trial", (plain_part(card.guard, "warn"),)))
    if card.problem:
        facts.append(("problem", (plain_part(card.problem, "warn"),)))
    if card.drained:
        facts.append(("drained", (("gets no new trials", "warn"),)))
    return [((f"{name:<20}", "dim"), *line) for name, line in facts]


def _present_facts(
    card: CardRow, trial: TrialRow | None, guards: Mapping[str, Any], detail: CardDetail | None
) -> Iterator[tuple[str, Line]]:
    """Yield what a card measures and does that the driver reports."""
    yield "memory", (_memory(card),)
    if card.cap_bytes is not None:
        yield "memory limit", ((formatting.size(card.cap_bytes), ""),)
    yield from _measurements(card, guards)
    yield "doing", card_activity(card, trial, whole=True)
    if trial is not None:
        settings = formatting.brief_settings(trial.settings) or "as in the recipe"
        yield "settings", (plain_part(settings),)
    yield from _methods(detail)
    yield from _processes(card, detail)


def _methods(detail: CardDetail | None) -> Iterator[tuple[str, Line]]:
    """Yield precision and attention with their reasons."""
    if detail is not None:
        whose = f"  (plan of #{detail.planned_for})" if detail.planned_for else ""
        yield "precision", (plain_part(detail.precision), (whose, "dim"))
        yield "attention", (plain_part(detail.attention),)


def _processes(card: CardRow, detail: CardDetail | None) -> Iterator[tuple[str, Line]]:
    """Yield our worker's process, and up to six of other programs."""
    if detail is not None and detail.worker_pid is not None:
        yield "our worker", ((f"pid {detail.worker_pid}", ""),)
    for process in card.processes[:6]:
        name = process.get("name") or "a program"
        what = "graphics" if process.get("draws") else "compute"
        size = formatting.size(_bytes(process))
        text = f"{name} ({what}), pid {process.get('pid', '?')}, {size}"
        yield "other program", (plain_part(text, "warn"),)
    if len(card.processes) > 6:
        yield "", ((f"and {len(card.processes) - 6} more programs", "dim"),)


def _measurements(card: CardRow, guards: Mapping[str, Any]) -> Iterator[tuple[str, Line]]:
    """Yield temperature, power, energy, memory errors and Xid errors, each where it is known."""
    if card.temperature_c is not None:
        limits = formatting.heat_limits(guards)
        degrees = formatting.temperature(card.temperature_c)
        yield "temperature", ((degrees, _heat(card)), (f"  {limits}", "dim"))
    if card.power_w is not None:
        yield "power", ((formatting.power(card.power_w, card.power_limit_w), ""),)
    if card.energy_wh is not None:
        yield "energy of trials", ((formatting.energy(card.energy_wh), ""),)
    if card.ecc_errors:
        yield "memory errors", ((f"{card.ecc_errors} uncorrected since boot", "bad"),)
    if card.xid_watch is not None:
        tone = "dim" if card.xid_watch else "warn"
        yield (
            "Xid errors",
            (plain_part(formatting.xid_watch(card.xid_watch), tone), *_last_xid(card)),
        )


def _last_xid(card: CardRow) -> Line:
    if not card.xids:
        return ()
    at_utc, code = card.xids[-1]
    return ((f"; last {xid.describe(int(code))} at {formatting.clock(at_utc)}", "warn"),)


def _memory(card: CardRow) -> Part:
    unknown = card.free_bytes is None or card.kind == "cpu"
    free = "" if unknown else f", {formatting.size(card.free_bytes)} free"
    return (f"{formatting.size(card.total_bytes)}{free}", "")


def _bytes(process: dict[str, object]) -> int | None:
    found = process.get("bytes")
    return found if isinstance(found, int) else None
