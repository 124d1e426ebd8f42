"""The charts of one trial: which metrics they show, under which names, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tui.chart import Curve
from tui.curves.smoothing import WEIGHTS, smooth_points
from workbench import formatting
from workbench.service import Point
from workbench.text import safe_line

_GIB = 1 << 30
SIX = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "peak_bytes")
"""The metrics that always have a chart, in their order."""
_NAMES = {
    "loss": "train loss",
    "eval_loss": "held-out loss",
    "grad_norm": "gradient norm",
    "tokens_per_s": "tokens/s",
    "peak_bytes": "peak memory",
    "step_s": "seconds per step",
}
_LEFT_OUT = {"epoch"}
"""Metrics that only repeat the step."""
_TOGETHER = {"loss": "eval_loss", "eval_loss": "loss"}
"""Metrics that share the large chart."""
_EXACT = {"learning_rate", "peak_bytes", "skipped_steps"}
"""Metrics that are set and not noisy; smoothing would bend them."""


@dataclass(slots=True)
class CurveChoice:
    """The way in which curves are drawn, the same for every trial until the user changes it."""

    logarithmic: bool = False
    smoothing: int = 0
    """The place in WEIGHTS."""

    @property
    def weight(self) -> float:
        """The weight of the exponential moving average; 0 for none."""
        return WEIGHTS[self.smoothing]

    def words(self) -> list[str]:
        """Return what differs from plain curves, for a title."""
        return [
            *(["logarithmic"] if self.logarithmic else []),
            *([f"smoothed by {self.weight:g}"] if self.weight else []),
        ]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: its metric, the title with the newest value, and the curves."""

    name: str
    title: str
    newest: str
    curves: tuple[Curve, ...]
    empty: str


def chart_names(known: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics that have a chart: the six, then others that the trial has reported."""
    return (*SIX, *(name for name in known if name not in {*SIX, *_LEFT_OUT}))


def metric_title(name: str) -> str:
    """Return a metric's name in words; a name may be foreign text."""
    return _NAMES.get(name) or safe_line(name, 40).replace("_", " ")


def metric_chart(
    name: str,
    series: Mapping[str, Sequence[Point]],
    choice: CurveChoice,
    *,
    ended: bool = False,
    large: bool = False,
) -> Chart:
    """Return the chart of a metric; a `large` one of a loss shows train and held-out together."""
    names = sorted({name, _TOGETHER.get(name, name)}, key=SIX.index) if _shared(name, large) else []
    curves = []
    for slot, one in enumerate(names or [name]):
        curves += _curves(one, slot, _in_unit(one, series.get(one, ())), choice)
    return Chart(
        name, metric_title(name), _newest(name, series.get(name, ())), tuple(curves), _empty(ended)
    )


def overlaid_curves(
    name: str, series: Mapping[int, Sequence[Point]], choice: CurveChoice
) -> list[Curve]:
    """Return one curve of a metric for each trial that has values, smoothed as the user chose.

    `series` has each trial's points by its id; the order fixes the glyphs.
    """
    curves = []
    for slot, (trial, points) in enumerate(series.items()):
        found = _in_unit(name, points)
        if choice.weight and name not in _EXACT and len(found) > 2:
            found = tuple(smooth_points(found, choice.weight))
        if found:
            curves.append(Curve(f"#{trial}", slot, found))
    return curves


def _shared(name: str, large: bool) -> bool:
    return large and name in _TOGETHER


def _in_unit(name: str, points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points in the unit of their axis, which is gibibytes for bytes."""
    if not name.endswith("_bytes"):
        return tuple(points)
    return tuple(Point(step=p.step, low=p.low / _GIB, high=p.high / _GIB) for p in points)


def _curves(name: str, slot: int, points: tuple[Point, ...], choice: CurveChoice) -> list[Curve]:
    whole = Curve(metric_title(name), slot, points)
    if not choice.weight or name in _EXACT or len(points) < 3:
        return [whole]
    smooth = Curve(whole.label, slot, smooth_points(points, choice.weight))
    return [Curve(whole.label, slot, points, quiet=True), smooth]


def _newest(name: str, points: Sequence[Point]) -> str:
    """Return the metric's newest value, in the unit that its name ends in; empty without one."""
    if not points:
        return ""
    value = (points[-1].low + points[-1].high) / 2
    if name.endswith("_bytes"):
        return formatting.size(int(value))
    return formatting.rate(value) if value >= 1_000 else formatting.number(value)


def _empty(ended: bool) -> str:
    return "none was logged" if ended else "no values yet"
