"""The page on which a run begins: recipes, settings to change, and what each card would take."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult, SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from tui.messages import Wish
from tui.new_run import lines
from tui.new_run.drafting import DraftingChild, check_data
from tui.paint import Line
from tui.screens.panel import Overlay
from tui.view_state import ViewState
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.lineinput import LineInput
from tui.widgets.rowlist import RowList
from workbench.errors import WorkbenchError
from workbench.home import Home
from workbench.service import TrialRow

PAUSE_S = 0.15
"""Seconds without a key after which what was typed is planned."""
_LOOK_S = 0.1
"""Seconds after which the thread looks whether the page was closed."""


class Drafted(Message):
    """The child answered the question of that number."""

    def __init__(self, number: int, answer: dict[str, Any]) -> None:
        super().__init__()
        self.number, self.answer = number, answer


class Listed(Message):
    """The child listed the recipes."""

    def __init__(self, recipes: list[dict[str, str]]) -> None:
        super().__init__()
        self.recipes = recipes


class Checked(Message):
    """The data check has ended."""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


class NewRun(Overlay[Wish | None]):
    """A recipe at the left, its settings beside it, cards and data below; typing changes settings.

    The result is the request for a new experiment or a clone; None where the page was left.
    """

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave", priority=True),
        Binding("ctrl+o", "editor", "Open $EDITOR", priority=True),
        Binding("ctrl+k", "check", "Check the data", priority=True),
        Binding("up", "recipe(-1)", "Recipe above", priority=True),
        Binding("down", "recipe(1)", "Recipe below", priority=True),
        Binding("pageup", "settings(-1)", "Settings above", priority=True),
        Binding("pagedown", "settings(1)", "Settings below", priority=True),
    ]

    def __init__(
        self, view_state: ViewState, home: Home, trial: TrialRow | None = None, typed: str = ""
    ) -> None:
        """`trial` is the one to clone; without it a recipe is chosen. `typed` are settings."""
        super().__init__(classes="-new-run")
        self.view_state = view_state
        self._home, self._trial = home, trial
        self.typed = typed
        """The settings that are typed, also after the page was left."""
        self._child = DraftingChild(home)
        self._asked: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self._number = 0
        self._recipes: list[dict[str, str]] = []
        self._text = ""
        """The recipe as edited in $EDITOR; empty until then."""
        self.answer: dict[str, Any] = {}
        self._checked: dict[str, Any] | None = None
        self._check_began: float | None = None
        self._hint_taken = trial is None or bool(typed)
        self._entered = False
        """True if enter was pressed before the newest plan was there."""

    def compose(self) -> ComposeResult:
        with Container(id="new-top"):
            recipes = RowList(id="recipes", header=False, empty="no recipe found")
            recipes.can_focus = False
            yield recipes
            settings = RowList(id="new-settings", cursor=False)
            yield settings
        yield LineInput(self.typed, id="typed", compact=True, max_length=2_000)
        with VerticalScroll(id="new-below"):
            yield LineBox(id="new-about", wrapped=True, indent=2)
            yield LineBox(id="new-cards", wrapped=True, indent=2)
            yield LineBox(id="new-data", wrapped=True, indent=2)
        yield LineBox(id="new-keys")

    def fill(self) -> None:
        title = "New run" if self._trial is None else f"Clone trial {self._trial.id}"
        self._recipe_list.display = self._trial is None
        set_title(self._recipe_list, "Recipe · ↑ ↓")
        set_title(self.query_one("#new-settings"), f"{title} · settings")
        set_title(self.query_one("#new-below"), "What each card would take")
        self.query_one(Input).placeholder = "settings to change: rank=8 lr=1e-4 max_tokens=1024"
        self.query_one(Input).focus()
        self._paint()
        self._talk()
        if self._trial is not None:
            self._ask()
        self.set_interval(1.0, self._paint)

    def on_unmount(self) -> None:
        self._child.close()

    @property
    def _recipe_list(self) -> RowList:
        return self.query_one("#recipes", RowList)

    # --- questions and answers ---

    @work(thread=True, exit_on_error=False, name="drafting")
    def _talk(self) -> None:
        """Ask the child, in a thread: the newest question only, so that typing never waits."""
        worker = get_current_worker()
        if self._trial is None:
            listed = self._child.ask({"list": True})
            self.post_message(Listed(list(listed.get("recipes", []))))
        while not worker.is_cancelled and self.is_attached:
            try:
                number, question = self._asked.get(timeout=_LOOK_S)
                while not self._asked.empty():
                    number, question = self._asked.get_nowait()
            except queue.Empty:
                continue
            self.post_message(Drafted(number, self._child.ask(question)))

    def _source(self) -> dict[str, Any]:
        """Return which recipe is meant, in the child's words."""
        where: dict[str, Any] = {"text": self._text} if self._text else {}
        if self._trial is not None:
            return {"trial": self._trial.id, **where}
        key = self._recipe_list.key
        path = self._recipes[int(key)]["path"] if key is not None else ""
        return where or {"recipe": path}

    def _ask(self) -> None:
        if self._trial is None and not self._recipes:
            return
        self._number += 1
        self._asked.put((self._number, {**self._source(), "words": self.typed}))

    @on(Listed)
    def _listed(self, fact: Listed) -> None:
        self._recipes = fact.recipes
        self._recipe_list.show(lines.RECIPES, lines.recipe_rows(fact.recipes))
        self._ask()

    @on(Drafted)
    def _drafted(self, fact: Drafted) -> None:
        if fact.number != self._number:
            return  # something was typed since
        self.answer = {**fact.answer, "number": fact.number}
        hinted = fact.answer.get("hinted")
        if hinted and not self._hint_taken:
            self._hint_taken = True
            self.query_one(Input).value = str(hinted)
        entered, self._entered = self._entered, False
        self._paint()
        if entered:
            self._submit()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        self._checked, self.typed, self._entered = None, event.value, False
        number = self._number = self._number + 1
        self.set_timer(PAUSE_S, lambda: self._ask() if number == self._number else None)

    # --- painting ---

    def _paint(self) -> None:
        if not self.is_mounted:
            return
        now, snapshot = self.view_state.now(), self.view_state.snapshot
        running_s = None if self._check_began is None else time.monotonic() - self._check_began
        boxes: dict[str, Iterable[Line]] = {
            "new-about": lines.about_lines(self.answer),
            "new-cards": lines.card_lines(self.answer, snapshot, now),
            "new-data": lines.check_lines(self._checked, running_s),
            "new-keys": [self._keys()],
        }
        for id, shown in boxes.items():
            self.query_one(f"#{id}", LineBox).show(list(shown))
        if self.answer.get("ok"):
            settings = self.query_one("#new-settings", RowList)
            settings.show(lines.SETTINGS, lines.setting_rows(self.answer))

    def _keys(self) -> Line:
        what = "submits" if self._trial is None else "clones"
        keys = (("enter", what), ("ctrl+o", "editor"), ("ctrl+k", "check data"), ("esc", "leave"))
        return tuple(
            part for key, word in keys for part in ((f" {key}", "accent"), (f" {word} ", "dim"))
        )

    # --- keys ---

    def action_recipe(self, by: int) -> None:
        if self._trial is not None:
            return
        self._text, self._checked, self.answer = "", None, {}
        self._recipe_list.action_move(by)
        self._ask()
        self._paint()

    def action_settings(self, by: int) -> None:
        rows = self.query_one("#new-settings", RowList)
        rows.scroll_relative(y=by * max(1, rows.size.height - 2), animate=False)

    def action_editor(self) -> None:
        """Open the recipe with its changes in $EDITOR; the page goes on with what was saved."""
        from workbench.trial_edits import run_editor, write_draft  # pydantic: 0.1 s

        text = str(self.answer.get("text") or self._text)
        if not text:
            self.app.bell()
            return
        path: Path | None = None
        try:
            path = write_draft(text)
            with self.app.suspend():
                self._text = run_editor(path, text)
            self.query_one(Input).value = ""
        except SuspendNotSupported:
            self.notify("an editor cannot be opened in this terminal", severity="warning")
        except WorkbenchError as wrong:
            self.notify(f"{wrong.what} {wrong.hint}", severity="warning", markup=False)
        else:
            path.unlink(missing_ok=True)
            self._ask()

    def action_check(self) -> None:
        if self._check_began is None and self.answer.get("ok"):
            self._check_began = time.monotonic()
            self._check(str(self.answer["text"]))
            self._paint()

    @work(thread=True, exit_on_error=False, name="check")
    def _check(self, text: str) -> None:
        """Check the recipe as it stands now, which is what would be submitted."""
        from workbench.trial_edits import write_draft

        path = write_draft(text)
        try:
            self.post_message(Checked(check_data(self._home, str(path), [])))
        finally:
            path.unlink(missing_ok=True)

    @on(Checked)
    def _data_checked(self, fact: Checked) -> None:
        self._check_began, self._checked = None, fact.result
        self._paint()

    @on(Input.Submitted)
    def _submitted(self, _event: Input.Submitted) -> None:
        if self.answer.get("number") == self._number:
            self._submit()
        else:
            self._entered = True  # until the child has read what was typed

    def _submit(self) -> None:
        """Ask for what is shown; a recipe with a mistake stays until it is corrected."""
        if not self.answer["ok"]:
            self.app.bell()
        elif self._trial is None:
            warm = {"warm_trial": None, **self.answer["warm"]}
            self.dismiss(Wish("submit", {"recipe": self.answer["recipe"], **warm}))
        elif not self.answer["changes"] and not self.answer["warm"]:
            self.notify("nothing is changed, so there is nothing to clone", severity="warning")
        else:
            settings = {"settings": self.answer["changes"], **self.answer["warm"]}
            self.dismiss(Wish("clone", {"trial": self._trial.id, **settings}))
