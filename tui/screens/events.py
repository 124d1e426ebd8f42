"""View 6: the events of all trials and of the engine, the newest at the bottom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Input

from tui import present
from tui.keys.keymap import place_bindings
from tui.messages import ALL_EVENTS, ActionRefused, DataNeeds, TrialOpened
from tui.paint import Line, plain_part
from tui.screens.panel import Panel
from tui.screens.view import READING, View
from tui.tables import events
from tui.tables.event_filter import EventFilter, levels_from, read_event_filter, toggle_term
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
        yield RowList(id="events", follow=True, empty=READING)

    def _read_filter(self) -> EventFilter:
        return read_event_filter(self.filter, self.view_state.snapshot)

    def needs(self) -> DataNeeds:
        filter = self._read_filter()
        least = filter.level or self.level
        return DataNeeds(
            events_of=ALL_EVENTS if filter.trial is None else filter.trial,
            events=NEWEST,
            debug=least == "debug",
            levels=() if least in ("debug", "info") else levels_from(least),
            events_on=filter.cards,
        )

    def _known(self) -> Sequence[EventRow]:
        picture = self.view_state.picture
        return picture.events if picture and picture.needs == self.needs() else ()

    def _event(self) -> EventRow | None:
        key = self.query_one("#events", RowList).key
        return next((event for event in self._known() if event.id == key), None)

    @property
    def chosen(self) -> int | None:
        event = self._event()
        return event.trial if event else None

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        if picture is None or picture.needs != self.needs():
            return  # these events are still being read
        rows, filter = self.query_one("#events", RowList), self._read_filter()
        least = filter.level or self.level
        known = events.at_least(picture.events, least)
        shown = [event for event in known if filter.matches(event)]
        rows.show(events.COLUMNS, events.event_rows(shown), self._empty_words(least))
        name = f"Events · {least} and above"
        if len(picture.events) >= NEWEST:
            name += f" · the newest {NEWEST}"
        self.show_count(rows, name, len(shown), len(known))

    def _empty_words(self, least: str) -> str:
        keymap = self.view_state.keymap
        if self.filter:
            return f"no event matches the filter; {keymap.shown_key('step-out')} clears it"
        if least in ("warning", "error"):
            key = keymap.shown_key("events.level")
            return f"no event has the level {least} or above; {key} shows others"
        return f"nothing has happened yet; {keymap.shown_key('new')} begins a run"

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

    def action_only(self, field: str) -> None:
        """List only events of the trial under the cursor, or of its `card`; or all again."""
        row = self.view_state.trial(self.chosen)
        if row is None:
            return
        if field == "card" and row.card is None:
            self.post_message(ActionRefused(f"trial {row.id} has not been on a card so far"))
            return
        term = f"trial:{row.id}" if field == "trial" else f"card:{self._typed_card(row.card)}"
        self.query_one("#filter", Input).value = toggle_term(self.filter, term)

    def _typed_card(self, uuid: str | None) -> str:
        """Return a card as people type it: its number in nvidia-smi, else the start of its UUID."""
        snapshot = self.view_state.snapshot
        slot = snapshot.slots.get(uuid or "") if snapshot else None
        return formatting.short_uuid(uuid or "") if slot is None else str(slot[0])

    def action_trial(self) -> None:
        if self.chosen is not None:
            self.post_message(TrialOpened(self.chosen))
