"""The frame of every view: the line of views, a banner, the body, the filter, the keys.

Also the bindings that act on a trial, since every view has a chosen trial to act on.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.message import Message
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget
from textual.widgets import Input

from tui.actions import ACT_VERBS, act_refusal
from tui.clipboard import copy_sequence
from tui.keys.keymap import place_bindings
from tui.keys.table import ROWS, TABLE, VIEW
from tui.messages import (
    ActAsked,
    ActionRefused,
    DataNeeds,
    ExperimentAsked,
    InputAsked,
    NeedsChanged,
    SendAsked,
    TrialOpened,
    UndoAsked,
)
from tui.steering import typed_refusal
from tui.variants.readonly import WHY as READ_ONLY
from tui.variants.readonly import changes_something
from tui.view_state import ViewState
from tui.widgets import strips
from tui.widgets.frame import OneLine, banner_lines, counts_line, key_line, top_line
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.lineinput import LineInput
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import Experiment, Snapshot, TrialRow

_VERBS = {
    f"trial.{verb}": verb
    for verb in ("stop", "kill", "pause", "resume", "clone", "extend", "add", "move", "evaluate")
} | {"board.evaluate": "evaluate"}
"""Rows of the key table that act on the chosen or marked trials, with their verbs."""
_NEED_TRIAL = {
    "trial.finals",
    "board.finals",
    "copy",
    *("events.trial", "events.of-trial", "events.of-card"),
    *(row.id for row in TABLE if row.id.startswith(("experiment.", "queue."))),
} - {"queue.hold-all"}
"""Further rows that need a trial under the cursor."""


class BackAsked(Message):
    """Escape was pressed while this screen had nothing left to close."""


class View(Screen[None]):
    """A screen that paints from the ViewState.

    `paint` may be called at any time and repaints only what differs.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    HERE: ClassVar[str] = ""
    PLACE: ClassVar[str] = ""
    """Its place in the table of keys, where that differs from HERE."""
    FILTERS: ClassVar[bool] = False
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
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(VIEW)]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__()
        self.view_state = view_state
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

    # --- keys ---

    @property
    def place(self) -> str:
        """The view's place in the table of keys."""
        return self.PLACE or self.HERE

    async def action_press(self, id: str) -> None:
        """Perform the row `id` of the key table, or say why that is impossible now."""
        if why_not := self.refusal(id):
            self.post_message(ActionRefused(why_not))
        else:
            await self.app.run_action(ROWS[id].action, self)

    def refusal(self, id: str) -> str:
        """Return why a row of the key table is impossible now; empty where it is possible."""
        if self.view_state.readonly and changes_something(ROWS[id]):
            return READ_ONLY
        if id == "filter":
            return "" if self.FILTERS else f"{self.HERE} has no list to filter"
        if id == "failure":
            return "" if self.view_state.next_failure(None) is not None else "no trial has failed"
        if id == "undo":
            return "" if self.view_state.can_undo else "nothing was done that can be undone"
        if verb := _VERBS.get(id):
            return self._act_refusal(verb)
        if id in _NEED_TRIAL and self.chosen is None:
            return "no trial is under the cursor"
        return ""

    def _act_refusal(self, verb: str) -> str:
        if verb in ACT_VERBS and len(self.targets()) > 1:
            return ""  # the question names the marked trials that are left out
        if verb in ACT_VERBS and self.view_state.marked:
            return self._row_refusal(verb, self.view_state.trial(self.targets()[0]))
        return self._row_refusal(verb, self.view_state.trial(self.chosen))

    def _row_refusal(self, verb: str, row: TrialRow | None) -> str:
        if row is None:
            return "no trial is under the cursor"
        why_not = act_refusal(verb, row) if verb in ACT_VERBS else typed_refusal(verb, row)
        return f"trial {row.id}: {why_not}" if why_not else ""

    def pin(self) -> None:
        """Keep the row under the cursor, since the next key is meant for the same trial."""
        for rows in self.query(RowList):
            rows.pin()

    def targets(self) -> tuple[int, ...]:
        """Return the trials that a key acts on: the marked ones, else the one under the cursor."""
        marked = tuple(sorted(self.view_state.marked))
        return marked or (() if self.chosen is None else (self.chosen,))

    def action_act(self, verb: str) -> None:
        """Ask for an action on the marked trials, or on the one under the cursor."""
        if targets := self.targets():
            self.pin()
            self.post_message(ActAsked(verb, targets))

    def action_input(self, verb: str) -> None:
        """Ask for an action on the chosen trial that needs typed input."""
        if self.chosen is not None:
            self.pin()
            self.post_message(InputAsked(verb, self.chosen))

    def chosen_experiment(self) -> Experiment | None:
        """Return the experiment of the chosen trial."""
        row, snapshot = self.view_state.trial(self.chosen), self.view_state.snapshot
        known = snapshot.experiments if snapshot and row else []
        return next((one for one in known if row and one.id == row.experiment), None)

    def action_priority(self, by: int) -> None:
        """Raise or lower the priority of the chosen trial's experiment."""
        if (found := self.chosen_experiment()) is not None:
            self.pin()
            priority = self.view_state.priority(found) + by
            self.post_message(SendAsked("priority", experiment=found.id, priority=priority))

    def action_hold(self) -> None:
        """Hold or release the chosen trial's experiment."""
        if (found := self.chosen_experiment()) is not None:
            self.pin()
            verb = "release" if self.view_state.held(found) else "hold"
            self.post_message(SendAsked(verb, experiment=found.id))

    def action_hold_all(self) -> None:
        """Hold or release the whole queue."""
        self.post_message(SendAsked("release" if self.view_state.held(None) else "hold"))

    def action_experiment(self) -> None:
        """Ask for what to do with all trials of the chosen trial's experiment."""
        if (found := self.chosen_experiment()) is not None:
            self.pin()
            self.post_message(ExperimentAsked(found.id))

    def action_failure(self) -> None:
        """Open the next failed trial, whose page shows the reason and the hint."""
        if (found := self.view_state.next_failure(self.chosen)) is not None:
            self.post_message(TrialOpened(found))

    def action_undo(self) -> None:
        """Undo the last action that can be undone."""
        self.post_message(UndoAsked())

    def copied_text(self) -> str:
        """Return what `y` copies: the settings of the trial under the cursor."""
        row = self.view_state.trial(self.chosen)
        settings = row.settings.items() if row is not None else ()
        return shlex.join(f"{key}={formatting.setting_text(value)}" for key, value in settings)

    def action_copy(self) -> None:
        text = self.copied_text()
        sequence = copy_sequence(text) if text else ""
        if not sequence or self.app._driver is None:
            self.notify("the trial has no settings of its own", markup=False)
            return
        # Past Textual, whose own sequence does not leave tmux.
        self.app._driver.write(sequence)
        self.notify(f"copied: {text}", markup=False)

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
