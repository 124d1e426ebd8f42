"""View 2: every trial of every experiment."""

from __future__ import annotations

from collections.abc import Iterable

from textual import on
from textual.widget import Widget

from tui.messages import TrialOpened
from tui.screens.view import View
from tui.tables import trials
from tui.view_state import ViewState
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot


class Trials(View):
    """The whole list of trials with all its columns, as far as the terminal is wide."""

    HERE = "Trials"
    FILTERS = True
    LISTS_TRIALS = True

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self._listing = trials.TrialListing()

    def body(self) -> Iterable[Widget]:
        yield RowList(id="trials")

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#trials", RowList).key
        return key if isinstance(key, int) else None

    def paint_body(self, snapshot: Snapshot) -> None:
        rows = self.query_one("#trials", RowList)
        shown = self._listing.matching(snapshot, self.filter)
        empty = "no trial matches the filter" if self.filter else "no trials yet"
        rows.show(
            trials.FULL,
            trials.full_rows(shown, self.view_state, self.view_state.now()),
            empty,
        )
        self.show_count(rows, "Trials", len(shown), len(snapshot.trials))

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

    @on(RowList.Marked)
    def _mark(self, event: RowList.Marked) -> None:
        if isinstance(event.key, int):
            self.view_state.toggle(event.key)
        self.repaint()
