"""3: what waits, in which order, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.widget import Widget

from tui import present
from tui.messages import TrialOpened
from tui.screens.view import ACTS, View
from tui.tables import trials
from tui.widgets.linebox import LineBox, entitle
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot

_REFUSED = 3


class Queue(View):
    HERE = "Queue"
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = (("enter", "open"), ("/", "filter"), *ACTS)
    FILTERS = True

    def body(self) -> Iterable[Widget]:
        yield LineBox(id="experiments", wrapped=True, indent=2)
        yield RowList(id="queue")
        yield LineBox(id="why", wrapped=True)

    @property
    def chosen(self) -> int | None:
        key = self.query_one("#queue", RowList).key
        return key if isinstance(key, int) else None

    def paint_body(self, snapshot: Snapshot) -> None:
        self._paint_experiments(snapshot)
        rows = self.query_one("#queue", RowList)
        waiting = trials.waiting(snapshot)
        shown = [row for row in waiting if trials.matches(row, self.filter)]
        empty = "no trial matches the filter" if self.filter else "nothing waits"
        rows.show(trials.QUEUE, trials.queue(snapshot, shown, self.desk.now()), empty)
        self.title_of(rows, "Waiting trials, next first", len(shown), len(waiting))

        self._paint_why(snapshot)

    def _paint_why(self, snapshot: Snapshot) -> None:
        """The whole reason of the trial under the cursor."""
        box, row = self.query_one("#why", LineBox), self.desk.trial(self.chosen)
        box.display = row is not None
        if row is not None:
            held = {one.id for one in snapshot.experiments if one.held}
            name = (f"{present.trial_name(row)}  ", "bold")
            box.show([(name, *trials.reason(row, held))])

    def _paint_experiments(self, snapshot: Snapshot) -> None:
        box = self.query_one("#experiments", LineBox)
        coming = [one for one in snapshot.experiments if one.state == "preparing"]
        refused = [one for one in snapshot.experiments if one.state == "refused"][:_REFUSED]
        box.show([trials.preparing(one) for one in (*coming, *refused)])
        box.display = bool(coming or refused)
        entitle(box, "Experiments without trials yet")

    @on(RowList.Opened)
    def _open(self, event: RowList.Opened) -> None:
        if isinstance(event.key, int):
            self.post_message(TrialOpened(event.key))
