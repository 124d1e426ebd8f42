"""The cards above the dashboard: a line each, or two and more in a line where many share little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tui.paint import Line, fit_line, plain_part
from tui.tables import cards as table
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.service import CardRow, TrialRow

_NARROWEST = 26
"""Cells of one card at least."""
_BETWEEN = 2


def strip_rows(
    cards: Sequence[CardRow],
    trials: Mapping[int, TrialRow],
    now: float,
    slots: Mapping[str, tuple[int, str]],
    cells: int,
    most: int,
) -> tuple[tuple[Column, ...], list[ListRow]]:
    """Return columns and rows of at most `most` lines: as many cards beside each other as it takes.

    A card that has no room even so is counted in the last cell.
    """
    beside = max(1, min(-(-len(cards) // most), (cells + _BETWEEN) // (_NARROWEST + _BETWEEN)))
    width = (cells - _BETWEEN * (beside - 1)) // beside
    shown = cards[: beside * most]
    texts = [_short(card, trials.get(card.trial or 0), now, slots, width) for card in shown]
    lines = -(-len(shown) // beside)
    # Down first, then right, as nvidia-smi counts.
    rows = [
        ListRow(shown[y].uuid, tuple(texts[at] for at in range(y, len(shown), lines)))
        for y in range(lines)
    ]
    return tuple(Column(title="", width=width) for _ in range(beside)), rows


def _short(
    card: CardRow,
    trial: TrialRow | None,
    now: float,
    slots: Mapping[str, tuple[int, str]],
    cells: int,
) -> Line:
    """Return number, name, utilisation, bytes, temperature, power and trial, as far as they fit."""
    old = card.is_old(now)
    label = table.card_label(card, slots)
    busy = None if old or card.utilisation is None else card.utilisation / 100
    memory = formatting.whole_gib_of_total(table.used_bytes(card, now), card.total_bytes)
    degrees = "" if old else formatting.temperature(card.temperature_c)
    watts = "" if old else formatting.power(card.power_w)
    doing = table.card_activity(card, trial)
    if trial is not None:
        doing = (("●", "live"), (formatting.trial_label(trial), ""))
    name: Line = fit_line((plain_part(label, "bold" if card.present else "dim"),), 10)
    facts: list[Line] = [((f" {formatting.percent(busy):>4}", "dim"),), ((f" {memory:>6}", ""),)]
    if cells >= 34:
        facts.append(((f" {degrees.replace(' ', ''):>5}", "bad" if card.heat == "hot" else "dim"),))
    if cells >= 40:
        facts.append(((f" {watts.replace(' ', ''):>5}", "dim"),))
    left: Line = tuple(part for line in (name, *facts) for part in line)
    return fit_line((*left, (" ", ""), *doing), cells)
