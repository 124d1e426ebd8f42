"""The frame of every view: the line of views, a banner, the body, the filter, the keys.

Also the bindings that act on a trial, since every view has a chosen trial to act on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from tui.messages import ActAsked, DataNeeds, InputAsked, NeedsChanged
from tui.view_state import ViewState
from tui.widgets import strips
from tui.widgets.frame import OneLine, banner_lines, key_line, top_line
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.rowlist import RowList
from workbench.service import Snapshot

ACTS = (("s", "stop"), ("p", "pause"))
ALWAYS = (("?", "keys"), ("q", "leave"))


class BackAsked(Message):
    """Escape was pressed while this screen had nothing left to close."""


class View(Screen[None]):
    """A screen that paints from the ViewState.

    `paint` may be called at any time and repaints only what differs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    HERE: ClassVar[str] = ""
    KEYS: ClassVar[tuple[tuple[str, str], ...]] = ()
    FILTERS: ClassVar[bool] = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-middle"), (140, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        *((0, "-tiny"), (20, "-short"), (28, "-mid"), (34, "-tall"), (46, "-high"))
    ]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "act('stop')", "Stop the trial, keeping its last checkpoint"),
        Binding("K", "act('kill')", "Kill the trial, keeping nothing"),
        Binding("p", "act('pause')", "Pause the trial and free its card"),
        Binding("r", "act('resume')", "Resume a paused trial"),
        Binding("c", "input('clone')", "Clone the trial with other settings"),
        Binding("x", "input('extend')", "Train on from an ended trial's adapter"),
        Binding("a", "input('add')", "Add a trial to its experiment"),
        Binding("v", "input('move')", "Move the trial to another card"),
        Binding("slash", "filter", "Filter the list", key_display="/"),
        Binding("escape", "back", "Step out one layer"),
    ]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__()
        self.view_state = view_state
        self.filter = ""
        self._ready = False

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

    @property
    def chosen(self) -> int | None:
        """The trial that the keys for trials act on."""
        return None

    # --- the frame ---

    def compose(self) -> ComposeResult:
        yield OneLine(id="top")
        yield LineBox(id="banner", wrapped=True)
        with Container(id="body"):
            yield from self.body()
        yield Input(id="filter", placeholder="show only rows with all these words", compact=True)
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
        self.query_one("#top", OneLine).paint(top_line(self.HERE, snapshot, cells))
        self.query_one("#keys", OneLine).paint(key_line((*self.KEYS, *ALWAYS), cells))
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

    # --- keys ---

    def pin(self) -> None:
        """Keep the row under the cursor, since the next key is meant for the same trial."""
        for rows in self.query(RowList):
            rows.pin()

    def action_act(self, verb: str) -> None:
        if self.chosen is None:
            self.app.bell()
        else:
            self.pin()
            self.post_message(ActAsked(verb, self.chosen))

    def action_input(self, verb: str) -> None:
        if self.chosen is None:
            self.app.bell()
        else:
            self.pin()
            self.post_message(InputAsked(verb, self.chosen))

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
        self.repaint()

    def show_count(self, widget: Widget, name: str, shown: int, total: int) -> None:
        """Title the widget with a count and the filter: `Trials · 3 of 12 · filter: rank=16`."""
        count = f"{shown}" if shown == total else f"{shown} of {total}"
        filtered = f" · filter: {self.filter}" if self.filter else ""
        set_title(widget, f"{name} · {count}{filtered}")
