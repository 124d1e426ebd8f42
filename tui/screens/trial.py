"""The page of one trial: chart, metrics, samples and log; plan, attempts, history, settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.widget import Widget

from tui.chart import Curve
from tui.keys.keymap import place_bindings
from tui.keys.table import TRIAL
from tui.messages import DataNeeds, Picture
from tui.screens.view import View
from tui.tables import detail as sections
from tui.tables import events
from tui.view_state import ViewState
from tui.widgets.curves import Curves
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot, TrialRow
from workbench.trial import Kind

_TAIL = 200
"""Events read for the log."""
_TOGETHER = {"loss": "eval_loss", "eval_loss": "loss"}
"""Metrics that share a chart."""


class Trial(View):
    """The view that opens on a trial from any list; escape goes back to the list."""

    HERE = "Trials"
    PLACE = TRIAL
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(TRIAL)]

    def __init__(self, view_state: ViewState, trial: int) -> None:
        super().__init__(view_state)
        self.trial = trial
        self.metric = "loss"
        self.names: tuple[str, ...] = ("loss",)

    @property
    def chosen(self) -> int | None:
        return self.trial

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="head", wrapped=True, indent=3)
        left = Container(
            Curves(id="curves"),
            RowList(id="metrics", header=False, cursor=False),
            LineBox(id="samples", wrapped=True, indent=10),
            LineBox(id="tail", wrapped=True, indent=11),
            id="left",
        )
        right = Container(
            LineBox(id="plan", wrapped=True, indent=20),
            LineBox(id="attempts", wrapped=True, indent=3),
            LineBox(id="history", wrapped=True, indent=10),
            LineBox(id="settings", wrapped=True, indent=sections.SETTING_NAME),
            id="right",
        )
        yield VerticalScroll(Container(left, right, id="columns"), id="scroll")

    def on_mount(self) -> None:
        """Set the titles; Textual also calls the handler of View, which paints."""
        for id, title in _TITLES.items():
            set_title(self.query_one(f"#{id}"), title)
        self.query_one("#scroll").focus()

    def needs(self) -> DataNeeds:
        return DataNeeds(
            detail=self.trial,
            series=tuple((self.trial, name) for name in self.names),
            events_of=self.trial,
            events=_TAIL,
        )

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        if picture is None or picture.needs.detail != self.trial:
            return  # this trial is still being read
        detail, now = picture.detail, self.view_state.now()
        if detail is None:
            self.query_one("#head", LineBox).show(
                [((f"trial {self.trial} does not exist any more", "bad"),)]
            )
            return
        names = tuple(detail.metric_names) or ("loss",)
        if names != self.names:
            self.names = names
            self.metric = self.metric if self.metric in names else names[0]
            self.call_later(self.repaint)  # the new metrics' curves have to be read first
        row = detail.trial
        attempt = detail.attempts[-1] if detail.attempts else None
        card = next((c for c in snapshot.cards if attempt and c.uuid == attempt.card), None)
        self._box("head").show(sections.head_lines(detail, row, snapshot.cards, self.view_state))
        self._box("plan").show(sections.plan_lines(attempt, card))
        self._box("attempts").show(sections.attempt_lines(detail.attempts, snapshot.cards, now))
        self._box("history").show(sections.history_lines(detail.moves))
        self._box("settings").show(
            sections.settings_lines(row, detail.experiment.recipe, self._others(snapshot, row))
        )
        self._box("samples").show(sections.sample_lines(detail.samples, detail.base_samples))
        self._box("tail").show(events.log_lines(picture.events) or [(("no events yet", "dim"),)])
        for id in ("curves", "metrics"):
            self.query_one(f"#{id}").display = row.kind is Kind.TUNE
        self._paint_metrics(picture)

    def _others(self, snapshot: Snapshot, row: TrialRow) -> list[TrialRow]:
        """Return the other trials of the experiment."""
        experiment = (one for one in snapshot.trials if one.experiment == row.experiment)
        return [one for one in experiment if one.id != row.id]

    def _box(self, id: str) -> LineBox:
        return self.query_one(f"#{id}", LineBox)

    def _paint_metrics(self, picture: Picture) -> None:
        series = {name: picture.series.get((self.trial, name), ()) for name in self.names}
        shown = [self.metric]
        other = _TOGETHER.get(self.metric, "")
        if other in self.names:
            shown = ["loss", "eval_loss"]
        chart = self.query_one("#curves", Curves)
        chart.show(
            [Curve(name.replace("_", " "), slot, series[name]) for slot, name in enumerate(shown)]
        )
        set_title(chart, " and ".join(name.replace("_", " ") for name in shown).capitalize())
        rows = self.query_one("#metrics", RowList)
        rows.styles.height = len(self.names) + 2
        rows.show(sections.METRICS, sections.metric_rows(self.names, series, self.metric))

    def action_scroll_page(self, to: str) -> None:
        """Scroll the page a line `down` or `up`, or to its `home` or `end`."""
        scroll = self.query_one("#scroll", VerticalScroll)
        moves = {
            "down": scroll.scroll_down,
            "up": scroll.scroll_up,
            "home": scroll.scroll_home,
            "end": scroll.scroll_end,
        }
        moves[to](animate=False)

    def action_metric(self, by: int) -> None:
        at = self.names.index(self.metric) if self.metric in self.names else 0
        self.metric = self.names[(at + by) % len(self.names)]
        self.repaint()


_TITLES = {
    "metrics": "Metrics · m charts the next",
    "samples": "Samples",
    "tail": "Log, newest last",
    "plan": "Plan and memory",
    "attempts": "Attempts",
    "history": "History, newest last",
    "settings": "Settings",
}
