"""A chart that repaints the lines that changed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui import present
from tui.chart import Curve, draw
from tui.paint import Line, plain
from tui.widgets import strips

_LEGEND = 8
"""Lines from which on there is room for a legend; the list's glyphs tell curves apart below it."""


class Curves(Widget):
    """Several curves with a legend above; `empty` is said while there is nothing to draw."""

    def __init__(self, *, id: str | None = None, empty: str = "no values yet") -> None:
        super().__init__(id=id)
        self._empty = empty
        self._curves: tuple[Curve, ...] = ()
        self._lines: list[Line] = []

    @property
    def curves(self) -> Sequence[Curve]:
        return self._curves

    def show(self, curves: Sequence[Curve]) -> None:
        if tuple(curves) != self._curves:
            self._curves = tuple(curves)
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        width, height = self.size
        old = self._lines
        if any(curve.points for curve in self._curves):
            legend = [self._legend(width)] if height >= _LEGEND else []
            self._lines = [*legend, *draw(self._curves, width, height - len(legend))]
        else:
            self._lines = [((self._empty, "dim"),)]
        for y in range(max(len(old), len(self._lines))):
            if old[y : y + 1] != self._lines[y : y + 1]:
                self.refresh(Region(0, y, width, 1))

    def _legend(self, width: int) -> Line:
        """Glyph, name and newest value of each curve; the least informative part goes first."""
        parts: list[tuple[str, str]] = []
        for curve in self._curves:
            newest = curve.points[-1] if curve.points else None
            told = present.number((newest.low + newest.high) / 2 if newest else None, 3)
            parts += [
                (f"{curve.glyph} ", curve.tone),
                plain(curve.label, limit=40),
                (f" {told}   ", "dim"),
            ]
        return tuple(parts)

    def render_line(self, y: int) -> Strip:
        line = self._lines[y] if y < len(self._lines) else ()
        return strips.strip(self, line, self.size.width)
