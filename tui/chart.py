"""Line charts in braille: the lowest and highest value of each pixel column, joined, with axes.

A braille cell is 2 pixels wide and 4 high. Ten thousand points cost as much as a hundred, because
the store returns at most a few for each pixel column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tui.curves.log_axis import power_label, power_ticks, to_powers
from tui.paint import SERIES, Line, Part, cut_text
from workbench.service import Point

GLYPHS = "●▲■◆○△□◇"
"""One glyph for each curve, on the curve and in the legend: colour never carries meaning alone."""
# Bits of the braille block U+2800, by column and row of the dot.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800
_FIRST_SHARE = 0.1
"""Share of a curve's columns that may leave the chart at the top."""
_STRETCH = 2.5
"""The factor by which the part must make the chart taller before it is cut off."""

_NOT_ABOVE_0 = " no value above 0, so none on a logarithmic axis"

ValueRange = tuple[float, float]
"""The lowest and the highest value in a pixel column."""

assert len(GLYPHS) == SERIES


@dataclass(frozen=True, slots=True)
class Curve:
    """A named series of points with a slot, which fixes its glyph and its tone."""

    label: str
    slot: int
    points: tuple[Point, ...]
    quiet: bool = False
    """True for the curve behind its own average: faint, and without a glyph."""

    @property
    def glyph(self) -> str:
        return GLYPHS[self.slot % SERIES]

    @property
    def tone(self) -> str:
        return "faint" if self.quiet else f"s{self.slot % SERIES}"


def column_ranges(
    points: Sequence[Point], first: int, last: int, columns: int
) -> list[ValueRange | None]:
    """Return the value range of each pixel column over the steps [first, last].

    Columns between two points are interpolated; columns before the first and behind the last
    point are None.
    """
    out: list[ValueRange | None] = [None] * columns
    spread = max(1, last - first)
    before: tuple[int, float] | None = None
    for point in points:
        at = min(columns - 1, (point.step - first) * (columns - 1) // spread)
        if at < 0:
            continue
        old = out[at]
        out[at] = (
            (min(point.low, old[0]), max(point.high, old[1])) if old else (point.low, point.high)
        )
        middle = (point.low + point.high) / 2
        if before is not None:
            _bridge(out, before, (at, middle))
        before = (at, middle)
    return out


def _bridge(out: list[ValueRange | None], a: tuple[int, float], b: tuple[int, float]) -> None:
    """Interpolate the columns between two points linearly."""
    for x in range(a[0] + 1, b[0]):
        y = a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])
        out[x] = (y, y)


def value_range(curves: Sequence[Sequence[ValueRange | None]]) -> tuple[float, float]:
    """Return the lowest and highest value to draw.

    A loss often starts so high that all later steps would share one row: where the first tenth of
    a curve stretches the axis beyond `_STRETCH`, it may leave the chart at the top.
    """
    every: list[ValueRange] = []
    later: list[ValueRange] = []
    for curve in curves:
        known = [column for column in curve if column is not None]
        every += known
        later += known[math.ceil(len(known) * _FIRST_SHARE) :]
    if not every:
        return (0.0, 1.0)
    low, high = min(r[0] for r in every), max(r[1] for r in every)
    if later:
        late = max(r[1] for r in later)
        if late > low and high - low > _STRETCH * (late - low):
            high = late + 0.15 * (late - low)
    if high - low < 1e-12:  # a constant would otherwise divide by zero
        pad = abs(high) * 0.05 or 0.5
        return (low - pad, high + pad)
    return (low, high)


def axis_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most `most` round values in [low, high]."""
    if most < 1 or high <= low:
        return []
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    # The smallest round step with few enough ticks; rounding errors must not lose the last one.
    for nice in (1, 2, 2.5, 5, 10, 20):
        step = nice * power
        first = math.ceil(low / step - 1e-9)
        last = math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [n * step for n in range(first, last + 1)]
    return []


def tick_label(value: float, step: float, high: float) -> str:
    """Return a tick's text with as many decimals as the distance of ticks needs; 16000 as 16k."""
    powers = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    power, unit = next((p for p in powers if abs(high) >= 10 * p[0]), (1.0, ""))
    if max(abs(value), step) < 1e-3:
        return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")
    size = step / power
    places = next((p for p in range(4) if abs(round(size, p) - size) < size * 1e-6), 4)
    return f"{value / power:.{places}f}{unit}"


class Canvas:
    """A grid of braille cells, each in the tone of the last curve drawn there, under glyphs."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = [[0] * width for _ in range(height)]
        self.tone = [[""] * width for _ in range(height)]
        self.over: dict[tuple[int, int], Part] = {}

    def fill_column(self, x: int, top: int, bottom: int, tone: str) -> None:
        """Set the dots of pixel column `x` from pixel row `top` down to `bottom`."""
        for y in range(max(0, top), min(self.height * 4 - 1, bottom) + 1):
            self.bits[y // 4][x // 2] |= _BITS[x % 2][y % 4]
            self.tone[y // 4][x // 2] = tone

    def row(self, y: int) -> Line:
        """Return cell row `y` with neighbours of one tone merged."""
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


def draw_curves(
    curves: Sequence[Curve],
    width: int,
    height: int,
    unit: str = "step",
    *,
    logarithmic: bool = False,
    span: tuple[int, int] | None = None,
) -> list[Line]:
    """Return exactly `height` lines of `width` cells: curves, values at the left, steps below.

    The lines are empty where the space is below 16 × 3 cells or no curve has a point. On a
    logarithmic axis of values, points that are not above 0 are left out, and a line says so where
    that leaves none. `span` are the first and
    the last step of the axis, unless the curves' own.
    """
    if logarithmic:
        some = any(curve.points for curve in curves)
        curves = [replace(curve, points=to_powers(curve.points)) for curve in curves]
        if some and not any(curve.points for curve in curves):
            return [((cut_text(_NOT_ABOVE_0, width), "dim"),), *[()] * (height - 1)][:height]
    drawn = [curve for curve in curves if curve.points]
    if not drawn or width < 16 or height < 3:
        return [()] * height
    first, last = span or (
        min(c.points[0].step for c in drawn),
        max(c.points[-1].step for c in drawn),
    )
    rows = height - 1
    # The labels' width decides the canvas's, and the values decide the labels: a first pass at
    # full width is close enough for both.
    coarse = [column_ranges(c.points, first, last, 2 * width) for c in drawn]
    low, high = value_range(coarse)
    labels = _labels(low, high, max(2, rows * 2 // 5), logarithmic=logarithmic)
    texts = {_row_of(value, low, high, rows): text for value, text in labels.items()}
    margin = max((len(t) for t in texts.values()), default=0) + 1
    canvas = Canvas(width - margin - 1, rows)
    for order, curve in enumerate(drawn):
        columns = column_ranges(curve.points, first, last, 2 * canvas.width)
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


def _labels(low: float, high: float, most: int, *, logarithmic: bool) -> dict[float, str]:
    """Return the labels of the axis of values by the place of their ticks."""
    if logarithmic and (ticks := power_ticks(low, high, most)):
        return {tick: power_label(tick) for tick in ticks}
    if logarithmic:  # within a factor of 2 there may be no round value
        return {low: power_label(low), high: power_label(high)}
    marks = axis_ticks(low, high, most)
    step = marks[1] - marks[0] if len(marks) > 1 else abs(marks[0]) if marks else 1.0
    return {value: tick_label(value, step, high) for value in marks}


def _pixel(value: float, low: float, high: float, rows: int) -> int:
    return round((high - value) / (high - low) * (rows * 4 - 1))


def _row_of(value: float, low: float, high: float, rows: int) -> int:
    return min(rows - 1, max(0, _pixel(value, low, high, rows) // 4))


def _trace(
    canvas: Canvas, columns: Sequence[ValueRange | None], low: float, high: float, tone: str
) -> None:
    """Draw each column's range, stretched to touch the column before it."""
    before: tuple[int, int] | None = None
    for x, column in enumerate(columns):
        if column is None:
            before = None
            continue
        top = _pixel(column[1], low, high, canvas.height)
        bottom = _pixel(column[0], low, high, canvas.height)
        here = (top, bottom)
        if before is not None:
            if top > before[1] + 1:
                top = before[1] + 1
            elif bottom < before[0] - 1:
                bottom = before[0] - 1
        canvas.fill_column(x, max(0, top), bottom, tone)
        before = here


def _mark(
    canvas: Canvas,
    columns: Sequence[ValueRange | None],
    low: float,
    high: float,
    curve: Curve,
    order: int,
    of: int,
) -> None:
    """Put the curve's glyph at its end and at intervals before it, staggered among curves."""
    known = [x for x, column in enumerate(columns) if column is not None]
    if not known or curve.quiet:
        return
    every = max(24, canvas.width // 2)
    offset = every * (order + 1) // (of + 1)
    for x in {*range(known[0] + offset, known[-1] - 8, every), known[-1]}:
        column = columns[x]
        if column is not None:
            y = _row_of((column[0] + column[1]) / 2, low, high, canvas.height)
            canvas.over[(x // 2, y)] = (curve.glyph, curve.tone)


def _axis(first: int, last: int, margin: int, width: int, unit: str) -> Line:
    """Return the x axis: `└0──────250──────500 step`."""
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
    """A sparkline cell, as wide as its column."""

    points: tuple[Point, ...]

    def line(self, cells: int) -> Line:
        """Return the sparkline on exactly `cells` cells."""
        return ((spark_text(self.points, cells), "live"),)


_SPARK = "▁▂▃▄▅▆▇█"


def spark_text(points: Sequence[Point], cells: int) -> str:
    """Return a sparkline of block characters; empty without points."""
    if not points or cells < 1:
        return ""
    columns = column_ranges(points, points[0].step, points[-1].step, cells)
    low, high = value_range([columns])
    out = []
    for column in columns:
        if column is None:
            out.append(" ")
        else:
            share = ((column[0] + column[1]) / 2 - low) / (high - low)
            out.append(_SPARK[min(7, max(0, int(share * 8)))])
    return "".join(out)
