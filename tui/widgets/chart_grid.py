"""Charts side by side in one widget, which repaints only the lines that changed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.chart import draw_curves
from tui.curves.charts import Chart
from tui.paint import Line, fit_line, join_lines, merge_parts
from tui.widgets import strips
from workbench import formatting

_GAP = 2
"""Blank cells between two charts."""
_TWO, _THREE = 50, 150
"""Widths from which charts stand in two and in three columns."""


class ChartGrid(Widget):
    """All charts in a grid, or one of them as large as the grid; one line while all are empty."""

    DEFAULT_CSS = "ChartGrid { height: auto; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._charts: tuple[Chart, ...] = ()
        self._large: Chart | None = None
        self._chosen = ""
        self._logarithmic = False
        self._span: tuple[int, int] | None = None
        self._rows = 8
        """Lines of one chart with its title."""
        self._lines: list[Line] = []
        self._made_for = Size(0, 0)

    @property
    def charts(self) -> Sequence[Chart]:
        """The charts that are shown."""
        return (self._large,) if self._large else self._charts

    def show(
        self,
        charts: Sequence[Chart],
        chosen: str,
        *,
        large: Chart | None = None,
        logarithmic: bool = False,
        span: tuple[int, int] | None = None,
        rows: int = 8,
    ) -> None:
        """Draw the grid with the `chosen` chart marked, or the chart `large` in its place.

        `span` are the first and the last step of every axis. `rows` are the lines of one chart.
        """
        height = self._height(self.size.width)
        self._charts, self._large, self._chosen = tuple(charts), large, chosen
        self._logarithmic, self._span, self._rows = logarithmic, span, rows
        if self._height(self.size.width) != height:
            self.refresh(layout=True)
        self._draw()

    def row_of(self, name: str) -> int:
        """Return the first line of a chart in the grid."""
        at = next((n for n, chart in enumerate(self._charts) if chart.name == name), 0)
        return at // _columns(self.size.width) * self._rows

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._height(width)

    def _height(self, width: int) -> int:
        if not any(curve.points for chart in self._charts for curve in chart.curves):
            return 1
        return -(-len(self._charts) // _columns(width)) * self._rows

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        old = self._lines
        self._make_lines()
        for y in range(max(len(old), len(self._lines))):
            if old[y : y + 1] != self._lines[y : y + 1]:
                self.refresh(Region(0, y, self.size.width, 1))

    def _make_lines(self) -> None:
        self._made_for = self.size
        width, height = self.size
        if self._height(width) == 1:
            self._lines = [((self._charts[0].empty if self._charts else "", "dim"),)]
        elif self._large:
            self._lines = self._large_lines(self._large, width, height)
        else:
            self._lines = self._grid_lines(width)

    def _grid_lines(self, width: int) -> list[Line]:
        columns = _columns(width)
        cells = (width - _GAP * (columns - 1)) // columns
        out: list[Line] = []
        for at in range(0, len(self._charts), columns):
            row = [self._chart_lines(chart, cells) for chart in self._charts[at : at + columns]]
            for parts in zip(*row, strict=True):
                out.append(
                    merge_parts(join_lines((fit_line(part, cells) for part in parts), _BLANK))
                )
        return out

    def _chart_lines(self, chart: Chart, cells: int) -> list[Line]:
        marked = chart.name == self._chosen
        title: Line = (
            ("▸" if marked else " ", "accent"),
            (chart.title, "bold" if marked else "dim"),
            (f"  {chart.newest}", ""),
        )
        return [title, *self._drawn(chart, cells, self._rows - 1)]

    def _large_lines(self, chart: Chart, width: int, height: int) -> list[Line]:
        return [self._legend(chart), *self._drawn(chart, width, height - 1)]

    def _legend(self, chart: Chart) -> Line:
        """Return the title of a large chart: its metric, or the glyph and value of each curve."""
        drawn = [curve for curve in chart.curves if not curve.quiet and curve.points]
        if len(drawn) < 2:
            return (("▸", "accent"), (chart.title, "bold"), (f"  {chart.newest}", ""))
        legend: list[tuple[str, str]] = [("▸", "accent")]
        for curve in drawn:
            middle = (curve.points[-1].low + curve.points[-1].high) / 2
            legend += [(f"{curve.glyph} ", curve.tone), (curve.label, "bold")]
            legend.append((f"  {formatting.number(middle)}   ", ""))
        return tuple(legend)

    def _drawn(self, chart: Chart, cells: int, rows: int) -> list[Line]:
        if not any(curve.points for curve in chart.curves):
            return [((f" {chart.empty}", "dim"),), *[()] * (rows - 1)]
        return draw_curves(
            chart.curves, cells, rows, logarithmic=self._logarithmic, span=self._span
        )

    def render_line(self, y: int) -> Strip:
        if self._made_for != self.size:  # laid out again, for example for a scrollbar
            self._make_lines()
        line = self._lines[y] if y < len(self._lines) else ()
        return strips.render_strip(self, line, self.size.width)


_BLANK = (" " * _GAP, "")


def _columns(width: int) -> int:
    return 3 if width >= _THREE else 2 if width >= _TWO else 1
