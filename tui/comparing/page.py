"""The page of compared trials: overlaid curves, settings, scores and answers beside each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.widget import Widget

from tui.curves.charts import SIX, metric_title, overlaid_curves
from tui.curves.page import CurvePage
from tui.keys.keymap import place_bindings
from tui.keys.table import COMPARE
from tui.messages import ComparisonAsked, DataNeeds
from tui.screens.view import READING
from tui.tables import comparison
from tui.view_state import ViewState
from tui.widgets.curves import Curves
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.scrolling import scroll_page
from workbench.service import Comparison, Snapshot


class Compare(CurvePage):
    """The page that compares two to six trials; escape goes back to the Board."""

    HERE = "Board"
    PLACE = COMPARE
    ROWS = "compare"
    VISIT = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(COMPARE)]

    def __init__(self, view_state: ViewState, found: Comparison) -> None:
        super().__init__(view_state)
        self.found = found
        self.metric = "loss"

    def body(self) -> Iterable[Widget]:
        numbers = Container(
            LineBox(id="settings"), LineBox(id="scores", wrapped=True, indent=7), id="right"
        )
        yield LineBox(id="head", wrapped=True, indent=3)
        yield VerticalScroll(
            Container(Curves(id="curves", empty=READING), numbers, id="columns"),
            LineBox(id="samples", wrapped=True, indent=8),
            id="scroll",
        )

    def on_mount(self) -> None:
        """Focus what scrolls; Textual also calls the handler of View, which paints."""
        self.query_one("#scroll").focus()
        self.call_after_refresh(self.paint)  # the table of settings needs a width

    def needs(self) -> DataNeeds:
        series = tuple((trial.id, self.metric) for trial in self.found.trials)
        return DataNeeds(series=series, window=self.window)

    def newest_step(self) -> int:
        rows = (self.view_state.trial(trial.id) for trial in self.found.trials)
        return max((row.step for row in rows if row is not None), default=0)

    def show_comparison(self, found: Comparison) -> None:
        """Show another comparison of the same trials, such as one with another baseline."""
        self.found = found
        self.repaint()

    def paint_body(self, snapshot: Snapshot) -> None:
        names = comparison.names_of(self.found.trials)
        self._box("head").show([((f" {', '.join(names)} compared", "bold"),)])
        self._paint_curves()
        settings = self._box("settings")
        if settings.size.width:
            settings.show(comparison.setting_lines(self.found, settings.size.width))
        self._box("scores").show(comparison.score_lines(self.found))
        self._box("samples").show(comparison.row_lines(self.found))
        set_title(settings, "Settings that differ")
        set_title(self._box("scores"), "Scores")
        set_title(self._box("samples"), comparison.row_title(self.found))

    def _paint_curves(self) -> None:
        picture, curves = self.view_state.picture, self.query_one("#curves", Curves)
        span = self.window.span(self.newest_step()) if self.window else None
        set_title(
            curves, " · ".join(["Curves", metric_title(self.metric), *self.curve_words(span)])
        )
        needs = self.needs()
        if picture is None or (picture.needs.series, picture.needs.window) != (
            needs.series,
            needs.window,
        ):
            return  # this metric is still being read
        series = {
            trial.id: picture.series.get((trial.id, self.metric), ()) for trial in self.found.trials
        }
        curves.show(
            overlaid_curves(self.metric, series, self.choice),
            logarithmic=self.choice.logarithmic,
            span=span,
            empty="none was logged",
        )

    def _box(self, id: str) -> LineBox:
        return self.query_one(f"#{id}", LineBox)

    def action_metric(self, by: int) -> None:
        """Overlay the next or the previous metric of the six that every trial logs."""
        self.metric = SIX[(SIX.index(self.metric) + by) % len(SIX)]
        self.repaint()

    def action_baseline(self) -> None:
        """Take differences from the next trial, which becomes the first."""
        first, *others = [trial.id for trial in self.found.trials]
        self.post_message(ComparisonAsked((*others, first)))

    def action_scroll_page(self, to: str) -> None:
        """Scroll the page a line `down` or `up`, or to its `home` or `end`."""
        scroll_page(self.query_one("#scroll", VerticalScroll), to)
