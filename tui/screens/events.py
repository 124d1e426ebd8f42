"""View 6: the events of all trials and of the engine, the newest at the bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget

from tui import present
from tui.keys.keymap import place_bindings
from tui.messages import ALL_EVENTS, DataNeeds, NeedsChanged, TrialOpened
from tui.paint import Line, plain_part
from tui.screens.panel import Panel
from tui.screens.view import View
from tui.tables import events
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import EventRow, Snapshot

NEWEST = 500
"""The number of events that are read and listed."""


class Events(View):
    """A list that follows its end until the user moves the cursor away from it."""

    HERE = "Events"
    FILTERS = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings("Events")]

    level = "info"
    """The least level of the events that are listed."""

    def body(self) -> Iterable[Widget]:
        yield RowList(id="events", follow=True, empty="nothing has happened yet")

    def needs(self) -> DataNeeds:
        return DataNeeds(events_of=ALL_EVENTS, events=NEWEST, debug=self.level == "debug")

    def _known(self) -> Sequence[EventRow]:
        picture = self.view_state.picture
        return picture.events if picture and picture.needs.events_of == ALL_EVENTS else ()

    def _event(self) -> EventRow | None:
        key = self.query_one("#events", RowList).key
        return next((event for event in self._known() if event.id == key), None)

    @property
    def chosen(self) -> int | None:
        event = self._event()
        return event.trial if event else None

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        if picture is None or picture.needs.events_of != ALL_EVENTS:
            return  # the events of everything are still being read
        rows, known = self.query_one("#events", RowList), self._known()
        grave = events.at_least(known, self.level)
        shown = [event for event in grave if events.event_matches(event, self.filter)]
        empty = "no event matches the filter" if self.filter else "nothing has happened yet"
        rows.show(events.COLUMNS, events.event_rows(shown), empty)
        self.show_count(rows, f"Events · {self.level} and above", len(shown), len(known))

    @on(RowList.Opened)
    def _open(self, _event: RowList.Opened) -> None:
        event = self._event()
        if event is None:
            return
        head: Line = (
            (f"{formatting.clock(event.at_utc)}  ", "dim"),
            present.level_glyph(event.level),
            (" ", ""),
            plain_part(f"{event.level}, {event.kind}", "dim"),
        )
        text = [(plain_part(line, limit=2_000),) for line in event.text.splitlines()]
        self.app.push_screen(Panel("Event", [head, (), *text]))

    def action_level(self) -> None:
        """Leave out the next level of events too, or none at all after `error`."""
        at = events.LEVELS.index(self.level)
        self.level = events.LEVELS[(at + 1) % len(events.LEVELS)]
        self.repaint()
        self.post_message(NeedsChanged())

    def action_trial(self) -> None:
        if self.chosen is not None:
            self.post_message(TrialOpened(self.chosen))
