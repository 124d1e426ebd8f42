"""Plots as SVG text: curves, intervals, and a score against one setting.

Every function is pure and returns one `<svg>` element that takes its colours from the page's CSS
classes. Meaning is never carried by colour alone: the best are filled and labelled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from workbench import formatting

WIDTH, HEIGHT = 640, 280
"""Size of the drawing in its own units; the page scales it to the column."""
LEFT, RIGHT, TOP, BOTTOM = 64, 96, 12, 40
"""Margins in units: tick labels on the left, curve labels on the right."""
ROW = 24
"""Height of one line of the interval plot, in units."""
TICKS = 5
LEAST_LABEL = 40
"""Least distance of two tick labels, in units."""
MOST_SPREAD = 48
"""Width over which dots at one place are spread, in units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One trial's line in a plot of curves."""

    label: str
    points: Sequence[tuple[float, float]]
    """Pairs of optimizer step and value, by rising step."""
    best: bool
    """True for a curve that is drawn in front, with its label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One trial's score with its interval."""

    label: str
    score: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None where there is none."""
    best: bool
    """True where the trial is tied for first."""
    at: object = None
    """The value of the setting that the score is plotted against."""


def nice_ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Return about `count` round numbers from `low` to `high`, ends inside.

    Steps are the nearest of 1, 2, 5 or 10 times a power of ten (Heckbert, "Nice Numbers for Graph
    Labels", 1990).
    """
    if not high > low:
        return [low]
    raw = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        (m * power for m, end in ((1, 1.5), (2, 3), (5, 7)) if raw < end * power), 10 * power
    )
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Products of whole numbers and the step: adding steps up would gather rounding errors.
    return [n * step for n in range(first, last + 1)]


class _Scale:
    """A mapping from values to drawing units, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False):
        self._log = log
        self.low, self.high = low, high
        self._low, self._high = (math.log(low), math.log(high)) if log else (low, high)
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        value = math.log(value) if self._log else value
        span = self._high - self._low
        share = 0.5 if span == 0 else (value - self._low) / span
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        if not self._log:
            return nice_ticks(self.low, self.high)
        return _log_ticks(self.low, self.high)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten between the ends, or the ends if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high * 1.0001]
    if len(found) > 2 * TICKS:
        found = [value for value in found if math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
    return found if len(found) > 1 else [low, high]


def curve_plot(curves: Sequence[Curve], *, name: str) -> str:
    """Return curves of one metric by optimizer step; empty without a finite point."""
    kept = [(one, [(x, y) for x, y in one.points if math.isfinite(y)]) for one in curves]
    kept = [(one, points) for one, points in kept if points]
    if not kept:
        return ""
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    across = _Scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _padded_scale(ys, HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, x_name="optimizer step", y_name=name)]
    for one, points in sorted(kept, key=lambda pair: pair[0].best):  # the best are drawn last
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        mark = "best" if one.best else "other"
        title = f"<title>{escape(one.label)}</title>"
        parts.append(f'<g>{title}<polyline class="curve {mark}" points="{line}"/></g>')
    parts += _end_labels(
        [(across(points[-1][0]), up(points[-1][1]), one.label) for one, points in kept if one.best]
    )
    return _svg(HEIGHT, parts, f"{name} by optimizer step, {formatting.plural(len(kept), 'trial')}")


def _end_labels(ends: Sequence[tuple[float, float, str]]) -> list[str]:
    """Return the labels at the ends (x, y) of curves, moved down where they would cover others."""
    labels, ordered = [], sorted(ends, key=lambda end: end[1])
    # The lowest curves are often the best: their labels must not cross the axis.
    lowest = HEIGHT - BOTTOM - 14 * (len(ordered) - 1)
    y_free = float(TOP)
    for place, (x, y, label) in enumerate(ordered):
        y_free = max(y_free, min(y + 4, lowest + 14 * place))
        labels.append(f'<text x="{x + 6:.1f}" y="{y_free:.1f}">{escape(label)}</text>')
        y_free += 14
    return labels


def interval_plot(dots: Sequence[Dot], *, name: str) -> str:
    """Return one line for each score with its interval, in the order given; empty without one."""
    dots = [dot for dot in dots if math.isfinite(dot.score)]
    if not dots:
        return ""
    height = TOP + ROW * len(dots) + BOTTOM
    ends = [end for dot in dots for end in (dot.low, dot.score, dot.high) if end is not None]
    across = _padded_scale(ends, LEFT + 56, WIDTH - 24)
    parts = [_x_axis(across, height - BOTTOM, name)]
    for n, dot in enumerate(dots):
        y = TOP + ROW * (n + 0.5)
        parts.append(
            f'<text class="end" x="{LEFT + 44}" y="{y + 4:.1f}">{escape(dot.label)}</text>'
        )
        if dot.low is not None and dot.high is not None:
            parts.append(_line(across(dot.low), y, across(dot.high), y, "bar"))
        parts.append(_circle(across(dot.score), y, dot))
    return _svg(height, parts, f"{name} of {formatting.plural(len(dots), 'model')} with intervals")


def setting_plot(dots: Sequence[Dot], *, key: str, name: str) -> str:
    """Return the score against the setting `key`; empty where fewer than two values were tried.

    Numbers that span more than a factor of ten stand on a logarithmic axis, values that are not
    numbers side by side.
    """
    dots = [dot for dot in dots if math.isfinite(dot.score)]
    if len({str(dot.at) for dot in dots}) < 2:
        return ""
    ends = [end for dot in dots for end in (dot.low, dot.score, dot.high) if end is not None]
    up = _padded_scale(ends, HEIGHT - BOTTOM, TOP)
    across, axis = _setting_axis([dot.at for dot in dots], key)
    parts = [axis, _y_axis(up, name)]
    places = _spread([across(dot.at) for dot in dots])
    for dot, x in sorted(zip(dots, places, strict=True), key=lambda pair: pair[0].best):
        if dot.low is not None and dot.high is not None:
            parts.append(_line(x, up(dot.low), x, up(dot.high), "bar"))
        parts.append(_circle(x, up(dot.score), dot))
    return _svg(HEIGHT, parts, f"{name} against {key}")


def _spread(places: Sequence[float]) -> list[float]:
    """Return the places with equal ones moved apart, so that their intervals can be told apart."""
    counts, seen = Counter(places), Counter[float]()
    spread = []
    for x in places:
        gap = min(8.0, MOST_SPREAD / counts[x])
        spread.append(x + gap * (seen[x] - (counts[x] - 1) / 2))
        seen[x] += 1
    return spread


def _setting_axis(values: Sequence[object], key: str) -> tuple[Callable[[object], float], str]:
    """Return the mapping from a setting's value to x, and the drawn axis."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    base = HEIGHT - BOTTOM
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        log = low > 0 and high / low > 10
        scale = _Scale(low, high, LEFT + 40, WIDTH - 64, log=log)
        tried = sorted(set(numbers))
        far = all(scale(b) - scale(a) >= LEAST_LABEL for a, b in pairwise(tried))
        # Values of a list are the ticks; draws from a range get round ones.
        return lambda value: scale(float(value)), _x_axis(scale, base, key, tried if far else None)
    words = sorted({formatting.setting_text(value) for value in values})
    gap = (WIDTH - LEFT - 104) / max(len(words) - 1, 1)
    place = {word: LEFT + 40 + n * gap for n, word in enumerate(words)}
    labels = [
        f'<text class="mid" x="{x:.1f}" y="{base + 16}">{escape(word[:24])}</text>'
        for word, x in place.items()
    ]
    axis = _line(LEFT, base, WIDTH - 24, base, "axis") + "".join(labels) + _x_name(base, key)
    return lambda value: place[formatting.setting_text(value)], axis


def _padded_scale(values: Sequence[float], start: float, end: float) -> _Scale:
    """Return a scale that leaves 5 % of the range free at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return _Scale(low - room, high + room, start, end)


def _frame(across: _Scale, up: _Scale, *, x_name: str, y_name: str) -> str:
    return _x_axis(across, HEIGHT - BOTTOM, x_name) + _y_axis(up, y_name)


def _x_axis(scale: _Scale, base: float, name: str, ticks: Sequence[float] | None = None) -> str:
    parts = [_line(LEFT, base, WIDTH - 24, base, "axis")]
    for tick in ticks or scale.ticks():
        x, label = scale(tick), formatting.number(tick)
        parts.append(_line(x, base, x, base + 4, "axis"))
        parts.append(f'<text class="mid" x="{x:.1f}" y="{base + 16}">{label}</text>')
    return "".join(parts) + _x_name(base, name)


def _x_name(base: float, name: str) -> str:
    middle = (LEFT + WIDTH) / 2
    return f'<text class="mid name" x="{middle:.1f}" y="{base + 34}">{escape(name)}</text>'


def _y_axis(scale: _Scale, name: str) -> str:
    parts = [f'<text class="name" x="{LEFT}" y="{TOP - 2}">{escape(name)}</text>']
    for tick in scale.ticks():
        y = scale(tick)
        parts.append(_line(LEFT, y, WIDTH - 24, y, "grid"))
        label = formatting.number(tick)
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{label}</text>')
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, mark: str) -> str:
    return f'<line class="{mark}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(x: float, y: float, dot: Dot) -> str:
    mark = "best" if dot.best else "other"
    shown = f"{dot.label}: {formatting.score(dot.score)}"
    title = f"<title>{escape(shown)}</title>"
    return f'<g>{title}<circle class="dot {mark}" cx="{x:.1f}" cy="{y:.1f}" r="5"/></g>'


def _svg(height: float, parts: Sequence[str], what: str) -> str:
    inside = "".join(parts)
    size = f'viewBox="0 0 {WIDTH} {height:.0f}"'
    label = escape(what, quote=True)
    return f'<svg {size} role="img" aria-label="{label}">{inside}</svg>'
