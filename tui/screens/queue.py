"""View 3: the queued trials in the order of placement, with the reason why each one waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from tui.keys.keymap import place_bindings
from tui.messages import DataNeeds, SendAsked, TrialOpened
from tui.screens.view import View
from tui.tables import listing, trials
from tui.tables.filters import TrialFilter
from tui.view_state import ListingChoice, ViewState
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import Snapshot

_REFUSED = 3
"""Refused experiments shown at most, the newest ones."""


class Queue(View):
    """The queue, with keys that reorder it, set priorities, and hold experiments."""

    HERE = "Queue"
    FILTERS = True
    LISTS_TRIALS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Queue")]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self._listing = listing.TrialListing()

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="experiments", wrapped=True, indent=2)
        yield RowList(id="queue")
        yield LineBox(id="why", wrapped=True)

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#queue", RowList).key
        return key if isinstance(key, int) else None

    def needs(self) -> DataNeeds:
        return DataNeeds(queue=True)

    def action_order(self, to: str) -> None:
        """Move the trial to the `front`, `up`, `down` or to the `back`."""
        if self.chosen is not None:
            self.pin()
            self.post_message(SendAsked("order", trial=self.chosen, to=to))

    def refusal(self, id: str) -> str:
        why_not = super().refusal(id)
        if why_not or id not in ("queue.up", "queue.down", "queue.back"):
            return why_not
        mine = self._of_its_experiment()
        edge, at = ("first", 0) if id == "queue.up" else ("last", -1)
        if mine and mine[at] == self.chosen:
            return f"trial {self.chosen} is the {edge} of its experiment already"
        return ""

    def _of_its_experiment(self) -> list[int]:
        """Return the queued trials of the chosen trial's experiment, the next one first."""
        picture, row = self.view_state.picture, self.view_state.trial(self.chosen)
        if picture is None or row is None:
            return []
        waiting = trials.waiting_trials(picture.snapshot, picture.queue)
        return [one.id for one in waiting if one.experiment == row.experiment]

    def paint_body(self, snapshot: Snapshot) -> None:
        self._paint_experiments(snapshot)
        rows = self.query_one("#queue", RowList)
        picture = self.view_state.picture
        waiting = trials.waiting_trials(snapshot, picture.queue if picture else ())
        wanted = TrialFilter(self.filter)
        shown = {row.id for row in waiting if wanted.matches(row)}
        told, settings = listing.shared_wait(waiting), self._listing.settings(snapshot)
        facts = trials.RowFacts(
            view_state=self.view_state, now=self.view_state.now(), settings=settings, told=told
        )
        listed = [row for row in waiting if row.id in shown]
        rows.show(
            self._listing.fit(trials.QUEUE, listed, snapshot, ListingChoice(), self.size.width),
            trials.queue_rows(snapshot, waiting, facts, shown),
            self.empty_words("no trial is queued"),
        )
        counts, marks = (len(shown), len(waiting)), len(self.view_state.marked)
        name = "Queued trials, next first"
        set_title(rows, listing.title(name, counts, self.filter, marks, told))
        self._paint_why(snapshot)

    def _paint_why(self, snapshot: Snapshot) -> None:
        """Show the whole reason of the trial under the cursor; its column may cut it."""
        box, row = self.query_one("#why", LineBox), self.view_state.trial(self.chosen)
        box.display = row is not None
        if row is not None:
            held = {one.id for one in snapshot.experiments if one.held}
            name = (f"{formatting.trial_label(row)}  ", "bold")
            box.show([(name, *trials.waiting_reason(row, held))])

    def _paint_experiments(self, snapshot: Snapshot) -> None:
        box = self.query_one("#experiments", LineBox)
        coming = [one for one in snapshot.experiments if one.state == "preparing"]
        refused = [one for one in snapshot.experiments if one.state == "refused"][:_REFUSED]
        box.show([trials.preparing_line(one) for one in (*coming, *refused)])
        box.display = bool(coming or refused)
        set_title(box, "Experiments without trials yet")

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))

    @on(RowList.Marked)
    def _mark(self, event: RowList.Marked) -> None:
        if isinstance(event.key, int):
            self.view_state.toggle(event.key)
        self.repaint()
