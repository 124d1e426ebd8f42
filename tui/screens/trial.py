"""The page of one trial: charts, samples and log; settings, plan, attempts, history, recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.widget import Widget

from tui.card_names import card_naming
from tui.curves.charts import chart_names, metric_chart
from tui.curves.page import CurvePage
from tui.keys.keymap import place_bindings
from tui.keys.table import TRIAL
from tui.messages import DataNeeds, Picture
from tui.screens.log import Log
from tui.screens.view import READING
from tui.tables import detail as sections
from tui.tables import events
from tui.tables.plan_bars import plan_lines
from tui.view_state import ViewState
from tui.widgets.chart_grid import ChartGrid
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.scrolling import scroll_page
from workbench.service import Snapshot, TrialDetail, TrialRow
from workbench.trial import Kind

_TAIL = 12
"""Events below the charts; the log's own page has all of them."""
_CHART_ROWS = {"-tiny": 6, "-short": 6, "-mid": 7, "-tall": 8, "-high": 10}
"""Lines of a chart with its title, by the class that the terminal's height gives the screen."""


class Trial(CurvePage):
    """The view that opens on a trial from any list; escape goes back to the list."""

    HERE = "Trials"
    PLACE = TRIAL
    ROWS = "curves"
    VISIT = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(TRIAL)]

    def __init__(self, view_state: ViewState, trial: int) -> None:
        super().__init__(view_state)
        self.trial = trial
        self.names = chart_names(())
        self.metric = self.names[0]
        self.large = False

    @property
    def chosen(self) -> int | None:
        return self.trial

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="head", wrapped=True, indent=3)
        left = Container(
            ChartGrid(id="charts"),
            LineBox(id="samples", wrapped=True, indent=10),
            LineBox(id="tail", wrapped=True, indent=11),
            id="left",
        )
        right = Container(
            LineBox(id="settings", wrapped=True, indent=sections.SETTING_NAME),
            LineBox(id="plan", wrapped=True, indent=20),
            LineBox(id="attempts", wrapped=True, indent=3),
            LineBox(id="history", wrapped=True, indent=10),
            LineBox(id="recipe", wrapped=True, indent=sections.SETTING_NAME),
            id="right",
        )
        yield VerticalScroll(Container(left, right, id="columns"), id="scroll")

    def on_mount(self) -> None:
        """Set the titles; Textual also calls the handler of View, which paints."""
        for id, title in _TITLES.items():
            set_title(self.query_one(f"#{id}"), title)
        self._box("head").show([((READING, "dim"),)])
        self.query_one("#scroll").focus()

    def needs(self) -> DataNeeds:
        return DataNeeds(
            detail=self.trial,
            series=tuple((self.trial, name) for name in self.names),
            window=self.window,
            events_of=self.trial,
            events=_TAIL,
        )

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        if picture is None or picture.needs.detail != self.trial:
            return  # this trial is still being read
        if picture.detail is None:
            gone = f"trial {self.trial} does not exist any more"
            self.query_one("#head", LineBox).show([((gone, "bad"),)])
            return
        self._know(picture.detail)
        self._paint_sections(snapshot, picture, picture.detail)
        charts = self.query_one("#charts", ChartGrid)
        charts.display = picture.detail.trial.kind is Kind.TUNE
        self._paint_charts(charts, picture, picture.detail.trial)

    def _know(self, detail: TrialDetail) -> None:
        names = chart_names(detail.metric_names)
        if names != self.names:
            self.names = names
            self.metric = self.metric if self.metric in names else names[0]
            self.call_later(self.repaint)  # the new metrics' curves have to be read first

    def _paint_sections(self, snapshot: Snapshot, picture: Picture, detail: TrialDetail) -> None:
        row, now = detail.trial, self.view_state.now()
        attempt = detail.attempts[-1] if detail.attempts else None
        card = next((c for c in snapshot.cards if attempt and c.uuid == attempt.card), None)
        recipe, others = detail.experiment.recipe, self._others(snapshot, row)
        self._box("head").show(sections.head_lines(detail, row, snapshot, self.view_state))
        self._box("settings").show(sections.settings_lines(row, recipe, others))
        self._box("plan").show(plan_lines(attempt, card))
        self._box("attempts").show(sections.attempt_lines(detail.attempts, snapshot, now))
        self._box("history").show(sections.history_lines(detail.moves, card_naming(snapshot)))
        self._box("recipe").show(sections.recipe_lines(row, recipe))
        self._box("samples").show(sections.sample_lines(detail.samples, detail.base_samples))
        self._box("tail").show(events.log_lines(picture.events) or [(("no events yet", "dim"),)])
        key = self.view_state.keymap.shown_key("trial.log")
        set_title(self._box("tail"), f"Log, newest last · {key} shows all of it")

    def _others(self, snapshot: Snapshot, row: TrialRow) -> list[TrialRow]:
        """Return the other trials of the experiment."""
        experiment = (one for one in snapshot.trials if one.experiment == row.experiment)
        return [one for one in experiment if one.id != row.id]

    def _box(self, id: str) -> LineBox:
        return self.query_one(f"#{id}", LineBox)

    # --- charts ---

    def _paint_charts(self, charts: ChartGrid, picture: Picture, row: TrialRow) -> None:
        series = {name: picture.series.get((self.trial, name), ()) for name in self.names}
        ended = row.state.final
        known = [points for points in series.values() if points]
        span = None
        if picture.needs.window is not None:
            span = picture.needs.window.span(row.step)
        elif known:
            span = (min(one[0].step for one in known), max(one[-1].step for one in known))
        charts.show(
            [metric_chart(name, series, self.choice, ended=ended) for name in self.names],
            self.metric,
            large=metric_chart(self.metric, series, self.choice, ended=ended, large=True)
            if self.large
            else None,
            logarithmic=self.choice.logarithmic,
            span=span,
            rows=next((n for name, n in _CHART_ROWS.items() if self.has_class(name)), 6),
        )
        set_title(charts, " · ".join(["Curves", *self.curve_words(span)]))

    def action_metric(self, by: int) -> None:
        at = self.names.index(self.metric) if self.metric in self.names else 0
        self.metric = self.names[(at + by) % len(self.names)]
        self.paint()
        self._show_chart()

    def _show_chart(self) -> None:
        """Scroll until the marked chart is in sight."""
        charts = self.query_one("#charts", ChartGrid)
        top = 0 if self.large else charts.row_of(self.metric)
        scroll = self.query_one("#scroll", VerticalScroll)
        below = top + self._chart_rows() + 1 - scroll.size.height
        if not below <= scroll.scroll_y <= top:
            scroll.scroll_to(y=top if scroll.scroll_y > top else below, animate=False)

    def _chart_rows(self) -> int:
        return next((n for name, n in _CHART_ROWS.items() if self.has_class(name)), 6)

    def action_enlarge(self) -> None:
        """Show the marked chart alone, or all of them again."""
        self.large = not self.large
        self.paint()
        self._show_chart()

    def newest_step(self) -> int:
        row = self.view_state.trial(self.trial)
        return row.step if row else 0

    def refusal(self, id: str) -> str:
        row = self.view_state.trial(self.trial)
        if id.startswith("curves.") and row is not None and row.kind is not Kind.TUNE:
            return f"trial {self.trial} trains nothing and has no curves"
        return super().refusal(id)

    # --- the page ---

    def action_log(self) -> None:
        """Open the whole log."""
        self.app.push_screen(Log(self.view_state, self.trial))

    def action_scroll_page(self, to: str) -> None:
        """Scroll the page a line `down` or `up`, or to its `home` or `end`."""
        scroll_page(self.query_one("#scroll", VerticalScroll), to)


_TITLES = {
    "samples": "Samples",
    "plan": "Plan and memory",
    "attempts": "Attempts",
    "history": "History, newest last",
    "settings": "Settings of its own",
    "recipe": "Settings of the recipe",
}
