"""Curves in braille: the lowest and highest value of each pixel column, joined, with axes.

A braille cell is 2 pixels wide and 4 high. Ten thousand points cost what a hundred cost, because
the store hands out at most a few for each pixel column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tui.paint import SERIES, Line, Part
from workbench.service import Point

GLYPHS = "●▲■◆○△□◇"
"""One for each curve, drawn on it and in the legend: colour is never alone."""
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800
_FIRST_SHARE = 0.1
"""Of the curve: what may be cut off above when it alone stretches the axis."""
_STRETCH = 2.5

Run = tuple[float, float]
"""The lowest and highest value in a pixel column."""

assert len(GLYPHS) == SERIES


@dataclass(frozen=True, slots=True)
class Curve:
    label: str
    slot: int
    """Its glyph and its tone."""
    points: tuple[Point, ...]

    @property
    def glyph(self) -> str:
        return GLYPHS[self.slot % SERIES]

    @property
    def tone(self) -> str:
        return f"s{self.slot % SERIES}"


def runs(points: Sequence[Point], first: int, last: int, columns: int) -> list[Run | None]:
    """Lowest and highest of each column of [first, last]; gaps between two points are bridged."""
    out: list[Run | None] = [None] * columns
    spread = max(1, last - first)
    before: tuple[int, float] | None = None
    for point in points:
        at = min(columns - 1, (point.step - first) * (columns - 1) // spread)
        if at < 0:
            continue
        old = out[at]
        out[at] = (min(point.low, old[0]), max(point.high, old[1])) if old else _run(point)
        middle = (point.low + point.high) / 2
        if before is not None:
            _bridge(out, before, (at, middle))
        before = (at, middle)
    return out


def _run(point: Point) -> Run:
    return (point.low, point.high)


def _bridge(out: list[Run | None], a: tuple[int, float], b: tuple[int, float]) -> None:
    for x in range(a[0] + 1, b[0]):
        y = a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])
        out[x] = (y, y)


def y_range(curves: Sequence[Sequence[Run | None]]) -> tuple[float, float]:
    """From the lowest to the highest, unless the first tenth alone would flatten all the rest."""
    every: list[Run] = []
    later: list[Run] = []
    for curve in curves:
        known = [run for run in curve if run is not None]
        every += known
        later += known[math.ceil(len(known) * _FIRST_SHARE) :]
    if not every:
        return (0.0, 1.0)
    low, high = min(r[0] for r in every), max(r[1] for r in every)
    if later:
        late = max(r[1] for r in later)
        if late > low and high - low > _STRETCH * (late - low):
            high = late + 0.15 * (late - low)
    if high - low < 1e-12:
        pad = abs(high) * 0.05 or 0.5
        return (low - pad, high + pad)
    return (low, high)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round values in [low, high]."""
    if most < 1 or high <= low:
        return []
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    for nice in (1, 2, 2.5, 5, 10, 20):
        step = nice * power
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [n * step for n in range(first, last + 1)]
    return []


def label(value: float, step: float, high: float) -> str:
    """A tick's text: as many places as the step between ticks has, thousands as k, M, G."""
    powers = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    power, unit = next((p for p in powers if abs(high) >= 10 * p[0]), (1.0, ""))
    if max(abs(value), step) < 1e-3:
        return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")
    size = step / power
    places = next((p for p in range(4) if abs(round(size, p) - size) < size * 1e-6), 4)
    return f"{value / power:.{places}f}{unit}"


class _Canvas:
    """Braille dots with the tone of the curve that drew last, and glyphs laid over them."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = [[0] * width for _ in range(height)]
        self.tone = [[""] * width for _ in range(height)]
        self.over: dict[tuple[int, int], Part] = {}

    def column(self, x: int, top: int, bottom: int, tone: str) -> None:
        for y in range(max(0, top), min(self.height * 4 - 1, bottom) + 1):
            self.bits[y // 4][x // 2] |= _BITS[x % 2][y % 4]
            self.tone[y // 4][x // 2] = tone

    def row(self, y: int) -> Line:
        parts: list[Part] = []
        for x in range(self.width):
            bits = self.bits[y][x]
            char, tone = chr(_EMPTY + bits) if bits else " ", self.tone[y][x]
            char, tone = self.over.get((x, y), (char, tone))
            if parts and parts[-1][1] == tone:
                parts[-1] = (parts[-1][0] + char, tone)
            else:
                parts.append((char, tone))
        return tuple(parts)


def draw(curves: Sequence[Curve], width: int, height: int, unit: str = "step") -> list[Line]:
    """Exactly `height` lines of `width` cells: curves, values at the left, steps below."""
    drawn = [curve for curve in curves if curve.points]
    if not drawn or width < 16 or height < 3:
        return [()] * height
    first = min(c.points[0].step for c in drawn)
    last = max(c.points[-1].step for c in drawn)
    rows = height - 1
    coarse = [runs(c.points, first, last, 2 * width) for c in drawn]
    low, high = y_range(coarse)
    marks = ticks(low, high, max(2, rows * 2 // 5))
    step = marks[1] - marks[0] if len(marks) > 1 else abs(marks[0]) if marks else 1.0
    texts = {_row_of(v, low, high, rows): label(v, step, high) for v in marks}
    margin = max((len(t) for t in texts.values()), default=0) + 1
    canvas = _Canvas(width - margin - 1, rows)
    for order, curve in enumerate(drawn):
        columns = runs(curve.points, first, last, 2 * canvas.width)
        _trace(canvas, columns, low, high, curve.tone)
        _mark(canvas, columns, low, high, curve, order, len(drawn))
    return [
        (
            (f"{texts.get(y, ''):>{margin - 1}} ", "dim"),
            ("┤" if y in texts else "│", "faint"),
            *canvas.row(y),
        )
        for y in range(rows)
    ] + [_axis(first, last, margin, canvas.width, unit)]


def _pixel(value: float, low: float, high: float, rows: int) -> int:
    return round((high - value) / (high - low) * (rows * 4 - 1))


def _row_of(value: float, low: float, high: float, rows: int) -> int:
    return min(rows - 1, max(0, _pixel(value, low, high, rows) // 4))


def _trace(
    canvas: _Canvas, columns: Sequence[Run | None], low: float, high: float, tone: str
) -> None:
    """Each column's run, stretched to touch the one before it."""
    before: tuple[int, int] | None = None
    for x, run in enumerate(columns):
        if run is None:
            before = None
            continue
        top = _pixel(run[1], low, high, canvas.height)
        bottom = _pixel(run[0], low, high, canvas.height)
        here = (top, bottom)
        if before is not None:
            if top > before[1] + 1:
                top = before[1] + 1
            elif bottom < before[0] - 1:
                bottom = before[0] - 1
        canvas.column(x, max(0, top), bottom, tone)
        before = here


def _mark(
    canvas: _Canvas,
    columns: Sequence[Run | None],
    low: float,
    high: float,
    curve: Curve,
    order: int,
    of: int,
) -> None:
    """The curve's glyph at its end, and every so often on its way, staggered among curves."""
    known = [x for x, run in enumerate(columns) if run is not None]
    if not known:
        return
    every = max(24, canvas.width // 2)
    offset = every * (order + 1) // (of + 1)
    for x in {*range(known[0] + offset, known[-1] - 8, every), known[-1]}:
        run = columns[x]
        if run is not None:
            y = _row_of((run[0] + run[1]) / 2, low, high, canvas.height)
            canvas.over[(x // 2, y)] = (curve.glyph, curve.tone)


def _axis(first: int, last: int, margin: int, width: int, unit: str) -> Line:
    """`└0──────250──────500 step`."""
    cells = list("─" * width)
    tail = f"{last:,} {unit}"
    middle = (first + last) // 2
    places = [(0, f"{first:,}"), (width - len(tail), tail)]
    if width > 40 and first < middle < last:
        places.insert(1, ((width - len(f"{middle:,}")) // 2, f"{middle:,}"))
    for at, text in places:
        for offset, char in enumerate(f"{text}"):
            if 0 <= at + offset < width:
                cells[at + offset] = char
    parts: list[Part] = [(" " * margin + "└", "faint")]
    for char in cells:
        tone = "faint" if char == "─" else "dim"
        if parts[-1][1] == tone:
            parts[-1] = (parts[-1][0] + char, tone)
        else:
            parts.append((char, tone))
    return tuple(parts)


@dataclass(frozen=True, slots=True)
class Spark:
    """A curve in one line of blocks, as wide as the room it is given."""

    points: tuple[Point, ...]

    def line(self, cells: int) -> Line:
        return ((spark(self.points, cells), "live"),)


_SPARK = "▁▂▃▄▅▆▇█"


def spark(points: Sequence[Point], cells: int) -> str:
    """One line of blocks, for a metric beside its name."""
    if not points or cells < 1:
        return ""
    columns = runs(points, points[0].step, points[-1].step, cells)
    low, high = y_range([columns])
    out = []
    for run in columns:
        if run is None:
            out.append(" ")
        else:
            share = ((run[0] + run[1]) / 2 - low) / (high - low)
            out.append(_SPARK[min(7, max(0, int(share * 8)))])
    return "".join(out)
