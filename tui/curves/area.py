"""Filled charts of a card's last hour and last day, which leave minutes without readings empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tui.chart import Canvas
from tui.paint import Line, fit_line, join_lines
from workbench import formatting
from workbench.service import CardMinute, CardRow

HOUR, DAY = 60, 24 * 60
"""Minutes of the two charts that stand beside each other."""
_LABEL = 16
"""Cells of the names and values at the left."""
_GAP = 3
_MOST_ROWS = 9
"""Lines of a band at most, the blank one below it included."""
_SPANS = ((HOUR, "the last hour"), (DAY, "the last day"))
Timed = tuple[int, float]
"""A minute since the epoch, and a value."""


@dataclass(frozen=True, slots=True)
class Area:
    """One quantity over time with the value that fills its chart."""

    name: str
    points: tuple[Timed, ...]
    full: float
    """The value at the top of the chart."""
    newest: str
    most: str
    tone: str


def card_areas(history: Sequence[CardMinute], card: CardRow) -> list[Area]:
    """Return utilisation, memory, power and temperature, each where the card reports it.

    The use of a CPU card's memory is not measured: its history holds that of the machine.
    """
    load = [(one.minute, one.utilisation) for one in history if one.utilisation is not None]
    used = [
        (one.minute, float(one.used_bytes))
        for one in history
        if one.used_bytes is not None and card.kind != "cpu"
    ]
    power = [(one.minute, one.power_w) for one in history if one.power_w is not None]
    heat = [(one.minute, one.temperature_c) for one in history if one.temperature_c is not None]
    top_w = card.power_limit_w or max((value for _, value in power), default=1.0)
    found = (
        ("busy", load, 100.0, lambda value: formatting.percent(value / 100), "live"),
        ("memory", used, float(card.total_bytes), lambda value: formatting.size(int(value)), "s1"),
        ("power", power, top_w, formatting.power, "s2"),
        ("temp", heat, 100.0, formatting.temperature, "s3"),
    )
    return [
        Area(
            name, tuple(points), full, words(points[-1][1]), words(max(p[1] for p in points)), tone
        )
        for name, points, full, words, tone in found
        if points
    ]


def area_lines(areas: Sequence[Area], now: float, width: int, height: int) -> list[Line]:
    """Return at most `height` lines of `width` cells: a band for each quantity, the hour at left.

    The lines are empty where the space is too small for a chart.
    """
    cells = (width - _LABEL - _GAP) // 2
    rows = (height - 1) // len(areas) if areas else 0
    if cells < 8 or rows < 1:
        return []
    rows, last = min(rows, _MOST_ROWS), int(now // 60)
    # Below three lines a blank line between two bands would cost too much of them.
    blank = int(rows > 2)
    heads = [fit_line(((name, "dim"),), cells) for _, name in _SPANS]
    out: list[Line] = [((" " * _LABEL, ""), *join_lines(heads, (" " * _GAP, "")))]
    for area in areas:
        drawn = [_drawn(area, last, minutes, cells, rows - blank) for minutes, _ in _SPANS]
        labels = _labels(area, rows - blank)
        for label, hour, day in zip(labels, *drawn, strict=True):
            out.append((*fit_line(label, _LABEL), *hour, (" " * _GAP, ""), *day))
        out += [()] * blank
    return out[:height]


def _labels(area: Area, rows: int) -> list[Line]:
    """Return the lines at the left of a band: name and newest value, then the highest."""
    newest, most = area.newest.replace(" %", "%"), area.most.replace(" %", "%")
    if rows == 1:
        return [((f"{area.name[:6]:<6} ", "dim"), (newest, ""))]
    first: Line = ((area.name, "dim"), (" " * max(1, _LABEL - 1 - len(area.name + newest)), ""))
    return [
        (*first, (newest, "")),
        (("  most ", "faint"), (most, "dim")),
        *[()] * (rows - 2),
    ]


def _drawn(area: Area, last: int, minutes: int, cells: int, rows: int) -> list[Line]:
    """Return the rows of one chart: each pixel column as high as the highest value in its time.

    A minute fills all columns that it touches; columns of minutes without readings stay empty.
    """
    canvas, columns = Canvas(cells, rows), 2 * cells
    highest: dict[int, float] = {}
    for minute, value in area.points:
        at = minute - (last - minutes) - 1
        if 0 <= at < minutes:
            first = at * columns // minutes
            for x in range(first, max(first + 1, (at + 1) * columns // minutes)):
                highest[x] = max(value, highest.get(x, 0.0))
    for x, value in highest.items():
        pixels = round(min(1.0, value / area.full) * rows * 4)
        # A value of 0 keeps the lowest pixel: it differs from a time without readings.
        canvas.fill_column(x, rows * 4 - max(1, pixels), rows * 4 - 1, area.tone)
    return [canvas.row(y) for y in range(rows)]
