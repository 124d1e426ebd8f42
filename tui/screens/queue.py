"""3: what waits, in which order, and for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.widget import Widget

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
        yield LineBox(id="experiments", wrapped=True)
        yield RowList(id="queue")

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
