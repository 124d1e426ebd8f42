"""View 2: every trial of every experiment, sorted, filtered and with the columns of choice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from tui.keys.keymap import place_bindings
from tui.messages import TrialOpened
from tui.screens.columns import ColumnsPanel
from tui.screens.view import View
from tui.tables import listing, trials
from tui.view_state import ViewState
from tui.widgets.linebox import set_title
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot

_SORTABLE = ("", *(column.title for column in trials.FULL if column.title))
_OPTIONAL = tuple(
    column.title for column in trials.FULL if column.drop and column.title != "settings"
)


class Trials(View):
    """The whole list of trials with all its columns, as far as the terminal is wide."""

    HERE = "Trials"
    FILTERS = True
    LIST_ALONE = True
    LISTS_TRIALS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Trials")]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self._listing = listing.TrialListing()

    def body(self) -> Iterable[Widget]:
        yield RowList(id="trials")

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#trials", RowList).key
        return key if isinstance(key, int) else None

    def paint_body(self, snapshot: Snapshot) -> None:
        rows, choice = self.query_one("#trials", RowList), self.view_state.choice
        shown = self._listing.listed(snapshot, self.filter, choice)
        told = self._listing.told(shown)
        settings = self._listing.settings(snapshot)
        rows.show(
            self._listing.fit(trials.FULL, shown, snapshot, choice, self.size.width),
            trials.full_rows(
                shown,
                trials.RowFacts(
                    view_state=self.view_state,
                    now=self.view_state.now(),
                    settings=settings,
                    engine_runs=not snapshot.engine.has_ended,
                    told=told,
                ),
            ),
            self.empty_words("no trials yet"),
        )
        counts, marks = (len(shown), len(snapshot.trials)), len(self.view_state.marked)
        set_title(rows, listing.title("Trials", counts, self.filter, marks, told, choice))

    # --- order and columns ---

    def action_sort(self, by: int) -> None:
        """Sort by the next column, or by the one before."""
        at = _SORTABLE.index(self.view_state.choice.sort)
        self._sort(_SORTABLE[(at + by) % len(_SORTABLE)])

    def action_reverse(self) -> None:
        """Reverse the order."""
        self._sort(self.view_state.choice.sort)

    @on(RowList.HeadClicked)
    def _head_clicked(self, event: RowList.HeadClicked) -> None:
        if event.title:
            self._sort(event.title)

    def _sort(self, title: str) -> None:
        choice = self.view_state.choice
        # The same column again turns its order round.
        choice.falling = not choice.falling if title == choice.sort else False
        choice.sort = title
        self._keep()

    def action_hide_ended(self) -> None:
        """Hide the trials that have ended, or show them again."""
        choice = self.view_state.choice
        choice.hides_ended = not choice.hides_ended
        self._keep()

    def action_columns(self) -> None:
        """Ask which columns are shown."""

        def answered(_result: None) -> None:
            self._keep()

        panel = ColumnsPanel(_OPTIONAL, self.view_state.choice.hidden)
        self.app.push_screen(panel, answered)

    def _keep(self) -> None:
        self.pin()
        self.view_state.keep_choice()
        self.repaint()

    def refusal(self, id: str) -> str:
        if id == "trials.reverse" and not self.view_state.choice.sort:
            key = self.view_state.keymap.shown_key("trials.sort-next")
            return f"the list is not sorted by a column; {key} sorts it"
        return super().refusal(id)

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

    @on(RowList.Marked)
    def _mark(self, event: RowList.Marked) -> None:
        if isinstance(event.key, int):
            self.view_state.toggle(event.key)
        self.repaint()
