"""A chart widget that repaints only the lines that changed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.chart import Curve, draw_curves
from tui.paint import Line, plain_part
from tui.widgets import strips
from workbench import formatting

_LEGEND = 8
"""Height from which there is a legend; in lower charts the glyphs in the list name the curves."""


class Curves(Widget):
    """Several curves under a legend; the text `empty` stands there while no curve has points."""

    def __init__(self, *, id: str | None = None, empty: str = "no values yet") -> None:
        super().__init__(id=id)
        self._empty = empty
        self._curves: tuple[Curve, ...] = ()
        self._logarithmic = False
        self._span: tuple[int, int] | None = None
        self._lines: list[Line] = []

    @property
    def curves(self) -> Sequence[Curve]:
        """The curves that are shown."""
        return self._curves

    def show(
        self,
        curves: Sequence[Curve],
        *,
        logarithmic: bool = False,
        span: tuple[int, int] | None = None,
        empty: str = "",
    ) -> None:
        """Draw these curves, if they differ from those that are shown.

        `span` are the first and the last step of the axis, unless the curves' own. `empty` replaces
        the text that stands there while no curve has points.
        """
        how = (logarithmic, span, empty or self._empty)
        if tuple(curves) != self._curves or how != (self._logarithmic, self._span, self._empty):
            self._curves = tuple(curves)
            self._logarithmic, self._span, self._empty = how
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        width, height = self.size
        old = self._lines
        if any(curve.points for curve in self._curves):
            legend = [self._legend(width)] if height >= _LEGEND else []
            drawn = draw_curves(
                self._curves,
                width,
                height - len(legend),
                logarithmic=self._logarithmic,
                span=self._span,
            )
            self._lines = [*legend, *drawn]
        else:
            self._lines = [((self._empty, "dim"),)]
        for y in range(max(len(old), len(self._lines))):
            if old[y : y + 1] != self._lines[y : y + 1]:
                self.refresh(Region(0, y, width, 1))

    def _legend(self, width: int) -> Line:
        """Return glyph, name and newest value of each curve; the strip cuts what does not fit."""
        parts: list[tuple[str, str]] = []
        for curve in self._curves:
            newest = curve.points[-1] if curve.points else None
            value = formatting.number((newest.low + newest.high) / 2 if newest else None)
            parts += [
                (f"{curve.glyph} ", curve.tone),
                plain_part(curve.label, limit=40),
                (f" {value}   ", "dim"),
            ]
        return tuple(parts)

    def render_line(self, y: int) -> Strip:
        line = self._lines[y] if y < len(self._lines) else ()
        return strips.render_strip(self, line, self.size.width)
