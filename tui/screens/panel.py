"""The kinds of panels laid over a view: text to read, a yes-or-no question, typed input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from tui.paint import Line
from tui.widgets import strips
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.lineinput import LineInput

Result = TypeVar("Result")


class Overlay(ModalScreen[Result]):
    """A screen laid over a view, which closes once, however many keys were typed ahead."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES

    def on_mount(self) -> None:
        self.app.clear_notifications()  # they would hide what is asked on a small terminal
        # Closed before it was shown, by a key that was typed ahead or a lost line, it is empty.
        if self.children:
            self.fill()

    def fill(self) -> None:
        """Put the text and the focus into the widgets, which are there now."""

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        # Textual would close the screen below for a second key that was on its way here.
        return super().dismiss(result) if self.is_active else AwaitComplete()


class Panel(Overlay[None]):
    """Text to read; escape, enter, q and ? close it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,enter,q,question_mark", "dismiss", "Close"),
        ("j", "scroll(1)", "Down"),
        ("k", "scroll(-1)", "Up"),
    ]

    def __init__(
        self,
        title: str,
        lines: Sequence[Line],
        *,
        bad: bool = False,
        tight: bool = False,
        indent: int = 0,
    ) -> None:
        """`bad` colours the border as an error; `tight` leaves out the margin, for 21 lines.

        `indent` is that of lines broken where the panel is narrower than they are.
        """
        super().__init__(classes=" ".join(["-bad"] * bad + ["-tight"] * tight))
        self._title = title
        self._text = lines
        self._indent = indent

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True, indent=self._indent)

    def action_scroll(self, by: int) -> None:
        self.query_one(".panel").scroll_relative(y=by, animate=False)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), f" {self._title} ")
        self.query_one(".panel").border_subtitle = " esc closes "
        self.query_one(LineBox).show(self._text)


class Confirm(Overlay[bool]):
    """A question whose result is True for y and False for every other key that closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "dismiss(True)", "Yes"),
        ("n,N,escape,enter,q", "dismiss(False)", "No"),
    ]

    def __init__(self, title: str, lines: Sequence[Line], yes: str, no: str) -> None:
        super().__init__()
        self._title, self._text, self._yes, self._no = title, lines, yes, no

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), f" {self._title} ")
        answers: Line = (
            ("y", "accent"),
            (f"  {self._yes}    ", ""),
            ("N", "accent"),
            (f"  {self._no}", ""),
        )
        self.query_one(LineBox).show([*self._text, (), answers])


class InputPanel(Overlay[str | None]):
    """A question with a line of input.

    The result is the input without surrounding blanks, or None when the user closed the panel.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss(None)", "Cancel"),
    ]

    def __init__(self, title: str, lines: Sequence[Line], preset: str = "") -> None:
        """`preset` is the input that the line begins with."""
        super().__init__()
        self._title, self._text, self._preset = title, lines, preset

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)
            yield LineInput(self._preset, id="typed", compact=True, max_length=2_000)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), f" {self._title} ")
        self.query_one(".panel").border_subtitle = " enter sends it · esc cancels "
        self.query_one(LineBox).show(self._text)
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.dismiss(event.value.strip())
        else:
            self.app.bell()


class TypeId(Overlay[bool]):
    """A question about something that cannot be undone: the trial's id must be typed.

    The result is True for the right id; a wrong id rings the bell and clears the input.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(False)", "No")]

    def __init__(self, title: str, lines: Sequence[Line], id: int) -> None:
        super().__init__()
        self._title, self._text, self._trial = title, lines, id

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)
            yield LineInput(id="typed", compact=True, restrict=r"[0-9]*", max_length=12)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), f" {self._title} ")
        ask: Line = (
            ("Type ", ""),
            (str(self._trial), "accent"),
            (" and enter to do it, ", ""),
            ("esc", "accent"),
            (" to cancel.", ""),
        )
        self.query_one(LineBox).show([*self._text, (), ask])
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip() == str(self._trial):
            self.dismiss(True)
        else:
            self.app.bell()
            event.input.value = ""


Option = tuple[tuple[str, ...], str, str]
"""Keys, the word that is the result, and what it means."""


class Choice(Overlay[str | None]):
    """Several actions with a key each; the result is the word of the chosen one, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q", "dismiss(None)", "Cancel")]

    def __init__(
        self, title: str, lines: Sequence[Line], options: Sequence[Option], *, bad: bool = False
    ) -> None:
        """`bad` colours the border as an error."""
        super().__init__(classes="-bad" if bad else None)
        self._title, self._text, self._options = title, lines, options

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True, indent=4)

    def fill(self) -> None:
        set_title(self.query_one(".panel"), f" {self._title} ")
        self.query_one(".panel").border_subtitle = " esc closes "
        options = [((f"{keys[0]:<4}", "accent"), (text, "")) for keys, _, text in self._options]
        self.query_one(LineBox).show([*self._text, *([()] if options else []), *options])

    def on_key(self, event: events.Key) -> None:
        for keys, word, _ in self._options:
            if event.character in keys or event.key in keys:
                event.stop()
                self.dismiss(word)
                return


class ErrorPanel(Choice):
    """A panel with what went wrong, the hint how to fix it, and the key that applies the hint.

    The result is the word of the chosen option; enter and ? close the panel too.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("enter,question_mark", "dismiss(None)", "Close")]

    def __init__(self, what: str, hint: str, options: Sequence[Option] = ()) -> None:
        lines: list[Line] = [((what, ""),)]
        if hint:
            lines += [(), (("hint  ", "dim"), (hint, "accent"))]
        super().__init__("That did not work", lines, options, bad=True)
