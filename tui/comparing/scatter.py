"""The score against each setting in braille: one small plot for every setting that differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tui.chart import Canvas, axis_ticks, tick_label
from tui.paint import Line, Part, cut_text, fit_line, join_lines
from workbench import formatting
from workbench.service import BoardRow

_NARROWEST = 26
"""Cells of one plot at least."""
_MARGIN = 8
"""Cells of the axis of scores."""
_GAP = 2


@dataclass(frozen=True, slots=True)
class Dot:
    """A trial's point in a plot."""

    value: object
    """The value of the setting."""
    score: float
    mark: Part | None = None
    """A glyph in its place, for the best trial, the baseline and the one under the cursor."""


@dataclass(frozen=True, slots=True)
class Plot:
    """The score against one setting."""

    key: str
    dots: tuple[Dot, ...]
    base: float | None
    """The score of the untrained base, drawn as a dotted line where it lies within the plot."""


def setting_plots(
    rows: Sequence[BoardRow], keys: Sequence[str], marks: dict[int, Part]
) -> list[Plot]:
    """Return a plot for each key with two values or more among trials that have a score.

    `marks` are the glyphs of trials, by id.
    """
    scored = [row for row in rows if row.kind != "base" and _finite(row.score)]
    base = next((row.score for row in rows if row.kind == "base" and _finite(row.score)), None)
    plots = []
    for key in keys:
        dots = tuple(
            Dot(row.settings[key], row.score or 0.0, marks.get(row.trial))
            for row in scored
            if key in row.settings
        )
        if len({str(dot.value) for dot in dots}) > 1:
            plots.append(Plot(key, dots, base))
    return plots


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def plot_lines(plots: Sequence[Plot], width: int, height: int) -> list[Line]:
    """Return at most `height` lines of `width` cells: plots beside each other, as many as fit.

    Empty where there is no plot, or no room for one.
    """
    if not plots or height < 5 or width < _NARROWEST:
        return []
    beside = min(len(plots), (width + _GAP) // (_NARROWEST + _GAP))
    stacked = min(-(-len(plots) // beside), height // 7) or 1
    cells, rows = (width - _GAP * (beside - 1)) // beside, height // stacked
    out: list[Line] = []
    for at in range(0, min(len(plots), beside * stacked), beside):
        row = [_one_plot(plot, cells, rows) for plot in plots[at : at + beside]]
        for parts in zip(*row, strict=True):
            out.append(join_lines((fit_line(part, cells) for part in parts), (" " * _GAP, "")))
    if (left := len(plots) - beside * stacked) > 0:
        out[-1] = fit_line(((f"and {formatting.plural(left, 'more setting')}", "dim"),), width)
    return out


def _one_plot(plot: Plot, cells: int, height: int) -> list[Line]:
    """Return title, canvas, and the axis of the setting: exactly `height` lines."""
    canvas = Canvas(cells - _MARGIN, height - 3)
    low, high = _padded([dot.score for dot in plot.dots])
    across = _places([dot.value for dot in plot.dots], 2 * canvas.width - 2)
    _draw_base(canvas, plot.base, low, high)
    pixels = canvas.height * 4 - 2
    for dot, x in sorted(zip(plot.dots, across, strict=True), key=lambda pair: bool(pair[0].mark)):
        y = round((high - dot.score) / (high - low) * pixels)
        if dot.mark is None:
            for column in (x, x + 1):
                canvas.fill_column(column, y, y + 1, "live")
        else:
            canvas.over[(x // 2, y // 4)] = dot.mark
    found = axis_ticks(low, high, max(2, canvas.height // 2))
    step = found[1] - found[0] if len(found) > 1 else high - low
    ticks = {round((high - value) / (high - low) * pixels) // 4: value for value in found}
    body: list[Line] = [
        (
            (f"{tick_label(ticks[y], step, high) if y in ticks else '':>{_MARGIN - 2}} ", "dim"),
            ("┤" if y in ticks else "│", "faint"),
            *canvas.row(y),
        )
        for y in range(canvas.height)
    ]
    title: Line = (
        (" " * _MARGIN, ""),
        (cut_text(formatting.short_key(plot.key), canvas.width), "bold"),
    )
    rule: Line = ((" " * (_MARGIN - 1) + "└" + "─" * canvas.width, "faint"),)
    return [title, *body, rule, ((" " * _MARGIN, ""), *_ends(plot, canvas.width))]


def _draw_base(canvas: Canvas, base: float | None, low: float, high: float) -> None:
    if base is None or not low <= base <= high:
        return
    y = round((high - base) / (high - low) * (canvas.height * 4 - 2))
    for x in range(0, 2 * canvas.width, 4):
        canvas.fill_column(x, y, y, "dim")


def _padded(scores: Sequence[float]) -> tuple[float, float]:
    low, high = min(scores), max(scores)
    pad = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    return low - pad, high + pad


def _numbers(values: Sequence[object]) -> list[float] | None:
    """Return the values as numbers; None where one is no number."""
    found = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    return found if len(found) == len(values) else None


def _places(values: Sequence[object], last: int) -> list[int]:
    """Return the pixel column of each value, from 0 to `last`.

    Numbers that span a factor of ten or more stand on a logarithmic axis; other values side by
    side, in the order of their text.
    """
    numbers = _numbers(values)
    if numbers is None:
        order = sorted({str(value) for value in values})
        return [order.index(str(value)) * last // max(1, len(order) - 1) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 10:
        numbers = [math.log(one) for one in numbers]
    low, high = min(numbers), max(numbers)
    return [round((one - low) / (high - low) * last) for one in numbers]


def _ends(plot: Plot, cells: int) -> Line:
    """Return the first and the last value below their ends of the axis, and how it is divided."""
    values = [dot.value for dot in plot.dots]
    numbers = _numbers(values)
    if numbers is None:
        words = sorted({formatting.setting_text(value) for value in values})
        return ((cut_text(" · ".join(words), cells), "dim"),)
    first, last = (formatting.setting_text(end(values)) for end in (_least, _most))
    log = min(numbers) > 0 and max(numbers) / min(numbers) >= 10
    middle = "log" if log and len(first) + len(last) + 5 < cells else ""
    room = max(1, cells - len(first) - len(last))
    return (
        (first, "dim"),
        (f"{middle:^{room}}", "faint"),
        (last, "dim"),
    )


def _least(values: Sequence[object]) -> object:
    return min(values, key=lambda value: float(str(value)))


def _most(values: Sequence[object]) -> object:
    return max(values, key=lambda value: float(str(value)))
