"""The whole log of one trial: it follows, wraps, searches and filters by level."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import BindingType
from textual.widget import Widget
from textual.widgets import Input

from tui.keys.keymap import place_bindings
from tui.keys.table import LOG
from tui.messages import DataNeeds
from tui.screens.view import View
from tui.tables.events import LEVELS
from tui.tables.logs import log_entries, search_pattern
from tui.view_state import ViewState
from tui.widgets.linebox import set_title
from tui.widgets.logbox import LogBox
from workbench import formatting
from workbench.service import Snapshot

NEWEST = 2_000
"""The number of events that are read."""


class Log(View):
    """The view that opens on the log of a trial's page; escape goes back to the page."""

    HERE = "Trials"
    PLACE = LOG
    VISIT = True
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(LOG)]

    def __init__(self, view_state: ViewState, trial: int) -> None:
        super().__init__(view_state)
        self.trial = trial
        self.level = "info"

    @property
    def chosen(self) -> int | None:
        return self.trial

    def body(self) -> Iterable[Widget]:
        yield LogBox(id="log")

    def on_mount(self) -> None:
        """Name what the line of input is for here; Textual also calls the handler of View."""
        field = self.query_one("#filter", Input)
        field.placeholder = "find words or a regular expression"

    @property
    def box(self) -> LogBox:
        """The widget with the log's lines."""
        return self.query_one("#log", LogBox)

    def needs(self) -> DataNeeds:
        return DataNeeds(events_of=self.trial, events=NEWEST, debug=self.level == "debug")

    def paint_body(self, snapshot: Snapshot) -> None:
        picture = self.view_state.picture
        if picture is None or picture.needs != self.needs():
            return  # the log is still being read
        entries = log_entries(picture.events, self.level)
        self.box.show(entries, search_pattern(self.filter), self._empty_words())
        self._paint_title(len(picture.events))

    def _empty_words(self) -> str:
        row = self.view_state.trial(self.trial)
        if self.level in ("info", "debug"):
            began = row is not None and row.attempts
            return f"nothing is logged {'yet' if began else 'until the trial has a card'}"
        key = self.view_state.keymap.shown_key("log.level")
        return f"no line has the level {self.level} or above; {key} shows others"

    def _paint_title(self, known: int) -> None:
        row = self.view_state.trial(self.trial)
        name = formatting.trial_label(row) if row else f"#{self.trial}"
        parts = [f"Log of {name}", f"{self.level} and above"]
        if known >= NEWEST:
            parts.append(f"the newest {NEWEST:,} events")
        if self.filter:
            parts.append(self._search_words())
        below = f"{formatting.plural(self.box.below, 'line')} below"
        parts.append("following" if self.box.following else below)
        set_title(self.box, " · ".join(parts))

    def _search_words(self) -> str:
        matches = self.box.matches
        if not matches:
            return f"no line has {self.filter}"
        at = f"{matches.index(self.box.found) + 1} of " if self.box.found in matches else ""
        return f"{self.filter}: {at}{formatting.plural(len(matches), 'line')}"

    def _focus_list(self) -> None:
        self.box.focus()

    # --- keys ---

    def refusal(self, id: str) -> str:
        if id in ("log.next", "log.previous") and not self.filter:
            return f"nothing is searched for; {self.view_state.keymap.shown_key('log.search')} does"
        if id in ("log.left", "log.right") and self.box.wraps:
            return f"lines are wrapped; {self.view_state.keymap.shown_key('log.wrap')} cuts them"
        return super().refusal(id)

    def action_search(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    def _filter(self, text: str) -> None:
        """Search for `text`, and go to the first line from here on that has it."""
        if text == self.filter:
            return
        self.filter = text
        self.paint()
        if text:
            self.box.find(1)
        self.paint()

    def action_find(self, by: int) -> None:
        if not self.box.find(by):
            self.notify(self._search_words(), severity="warning", markup=False)
        self.paint()

    def action_level(self) -> None:
        """Leave out the next level of lines too, or none at all after `error`."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self.repaint()

    def action_wrap(self) -> None:
        self.box.wrap(wraps=not self.box.wraps)

    def action_follow(self) -> None:
        """Go to the newest line and follow it, or stay where the log is now."""
        if self.box.following:
            self.box.following = False
        else:
            self.box.to_end()
        self.paint()

    def action_scroll_log(self, to: str) -> None:
        """Scroll by a line or a page, to an end, or sideways."""
        box = self.box
        moves = {
            "down": box.scroll_down,
            "up": box.scroll_up,
            "page-down": box.scroll_page_down,
            "page-up": box.scroll_page_up,
            "home": box.scroll_home,
            "left": lambda **how: box.scroll_relative(x=-16, **how),
            "right": lambda **how: box.scroll_relative(x=16, **how),
        }
        if to == "end":
            box.to_end()
        else:
            moves[to](animate=False)

    @on(LogBox.Scrolled)
    def _scrolled(self) -> None:
        self.paint()  # the title counts the lines below
