"""The keys of every view: what they do with the chosen trial, or why that is impossible now."""

from __future__ import annotations

import shlex
from typing import ClassVar

from textual.binding import BindingType
from textual.screen import Screen

from tui.actions import ACT_VERBS, act_refusal
from tui.clipboard import copy_sequence
from tui.keys.keymap import place_bindings
from tui.keys.table import ROWS, TABLE, VIEW
from tui.messages import (
    ActAsked,
    ActionRefused,
    ExperimentAsked,
    InputAsked,
    SendAsked,
    TrialOpened,
    UndoAsked,
)
from tui.steering import typed_refusal
from tui.variants.readonly import WHY as READ_ONLY
from tui.variants.readonly import changes_something
from tui.view_state import ViewState
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.service import Experiment, TrialRow

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


class TrialKeys(Screen[None]):
    """A screen with a chosen trial, on which the keys of the table act."""

    HERE: ClassVar[str] = ""
    PLACE: ClassVar[str] = ""
    """Its place in the table of keys, where that differs from HERE."""
    FILTERS: ClassVar[bool] = False
    """True if it has a list to filter."""
    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(VIEW)]

    def __init__(self, view_state: ViewState) -> None:
        super().__init__()
        self.view_state = view_state

    @property
    def chosen(self) -> int | None:
        """The trial that the keys for trials act on."""
        return None

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
