"""The frame of every view: the line of views, a banner, the body, the filter, the keys.

The keys of every view are those of `trial_keys`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Container
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input

from tui.acts.trial_keys import TrialKeys
from tui.messages import DataNeeds, NeedsChanged
from tui.view_state import ViewState
from tui.widgets import strips
from tui.widgets.frame import OneLine, banner_lines, counts_line, key_line, top_line
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.lineinput import LineInput
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot

READING = "reading …"
"""What stands where nothing has been read so far, in place of a word that there is nothing."""


class BackAsked(Message):
    """Escape was pressed while this screen had nothing left to close."""


class View(TrialKeys):
    """A screen that paints from the ViewState.

    `paint` may be called at any time and repaints only what differs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    LIST_ALONE: ClassVar[bool] = False
    """True if nothing but the list itself follows the cursor before the keys pause."""
    VISIT: ClassVar[bool] = False
    """True for a page that was opened from a view and is left with it."""
    LISTS_TRIALS: ClassVar[bool] = False
    """True if marks show in this view, so that escape takes them away."""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-middle"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        *((0, "-tiny"), (20, "-short"), (28, "-mid"), (34, "-tall"), (46, "-high"))
    ]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self.filter = ""
        self._ready = False
        self._following: Timer | None = None
        self._followed: int | None = None

    # --- defined by each view ---

    def body(self) -> Iterable[Widget]:
        """Yield the view's widgets, from top to bottom, between the banner and the keys."""
        raise NotImplementedError

    def paint_body(self, snapshot: Snapshot) -> None:
        """Bring the view's widgets up to date; they repaint what differs."""
        raise NotImplementedError

    def needs(self) -> DataNeeds:
        """Return what the poller should read for this view beside the snapshot."""
        return DataNeeds()

    # --- the frame ---

    def compose(self) -> ComposeResult:
        yield OneLine(id="top")
        yield LineBox(id="banner", wrapped=True)
        with Container(id="body"):
            yield from self.body()
        filter = LineInput(
            id="filter", placeholder="show only rows with all these words", compact=True
        )
        filter.closes = True
        yield filter
        yield OneLine(id="keys")

    def on_mount(self) -> None:
        self.query_one("#filter", Input).display = False
        self._ready = True
        self.paint()

    def on_screen_resume(self) -> None:
        self.paint()
        self.post_message(NeedsChanged())

    def on_resize(self) -> None:
        self.paint()

    @property
    def there(self) -> bool:
        """False while the screen is being composed or taken down; its widgets do not exist then."""
        return self._ready and self.display and self.is_attached and self.app.is_running

    def paint(self) -> None:
        """Repaint frame and body from the newest picture."""
        if not self.there:
            return
        snapshot = self.view_state.snapshot
        cells = self.size.width
        self.query_one("#top", OneLine).paint(
            top_line(self.HERE, snapshot, cells, counts_line(self.view_state))
        )
        footer = [
            (keys, word)
            for keys, word, ids in self.view_state.keymap.footer(self.place)
            if self.FILTERS or ids != ["filter"]
        ]
        self.query_one("#keys", OneLine).paint(key_line(footer, cells))
        self._paint_banner()
        if snapshot is not None:
            self.paint_body(snapshot)
            if self.focused is None:
                self._focus_list()

    def _paint_banner(self) -> None:
        picture, banner = self.view_state.picture, self.query_one("#banner", LineBox)
        lines = []
        if picture is not None:
            lines = banner_lines(
                picture.snapshot, picture.at_utc, self.view_state.now(), self.view_state.read_error
            )
        elif self.view_state.read_error:
            lines = [((self.view_state.read_error, "bad"),)]
        banner.show(lines)
        banner.display = bool(lines)

    def repaint(self) -> None:
        """Paint, and tell the poller that this view may need other data now."""
        self.paint()
        self.post_message(NeedsChanged())

    # --- filter and lists ---

    def action_filter(self) -> None:
        if self.FILTERS:
            field = self.query_one("#filter", Input)
            field.display = True
            field.focus()

    def action_back(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display or self.filter:
            field.value = ""
            self._close_filter()
            self._filter("")  # the message of the changed value comes later
        elif self.view_state.marked and self.LISTS_TRIALS:
            self.view_state.clear_marks()
            self.repaint()
        else:
            self.post_message(BackAsked())

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self._filter(event.value)

    @on(Input.Submitted, "#filter")
    def _kept(self, _event: Input.Submitted) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter", Input).display = False
        self._focus_list()

    def _focus_list(self) -> None:
        """Focus the list that the keys act on, where it is shown."""
        lists = [rows for rows in self.query(RowList) if rows.focusable]
        if lists:
            lists[0].focus()

    def _filter(self, text: str) -> None:
        if text != self.filter:
            self.filter = text
            self.repaint()

    @on(RowList.Reached)
    def _reached(self, _event: RowList.Reached) -> None:
        """Paint the cursor at once, and what belongs to its row once the keys have paused."""
        if self._following is not None:
            self._following.stop()
        self._following = self.set_timer(self.view_state.follow_s, self._follow)
        if not self.LIST_ALONE:
            self.paint()

    def _follow(self) -> None:
        self._following = None
        self.repaint()

    @property
    def followed(self) -> int | None:
        """The trial whose log and facts are shown: the chosen one, as soon as the keys pause."""
        if self._following is None:
            self._followed = self.chosen
        return self._followed

    def empty_words(self, empty: str) -> str:
        """Return what stands in a list of trials without rows, with the key that helps."""
        keymap = self.view_state.keymap
        if self.filter:
            return f"no trial matches the filter; {keymap.shown_key('step-out')} clears it"
        if self.view_state.choice.hides_ended and self.HERE == "Trials":
            return f"all trials have ended; {keymap.shown_key('trials.hide')} shows them"
        return f"{empty}; {keymap.shown_key('new')} begins a run"

    def show_count(self, widget: Widget, name: str, shown: int, total: int) -> None:
        """Title the widget with a count and the filter: `Trials · 3 of 12 · filter: rank=16`."""
        count = f"{shown}" if shown == total else f"{shown} of {total}"
        filtered = f" · filter: {self.filter}" if self.filter else ""
        set_title(widget, f"{name} · {count}{filtered}")
