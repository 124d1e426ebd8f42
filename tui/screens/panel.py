"""Panels laid over a view: something to read, a yes or no, an id to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from tui.paint import Line
from tui.widgets import strips
from tui.widgets.linebox import LineBox, entitle


class Panel(ModalScreen[None]):
    """Text to read; any of the usual keys closes it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,enter,q,question_mark", "dismiss", "Close"),
    ]

    def __init__(
        self, title: str, lines: Sequence[Line], *, bad: bool = False, tight: bool = False
    ) -> None:
        """`tight`: without a margin, so that 21 lines are seen at once at 80 × 24."""
        super().__init__(classes=" ".join(["-bad"] * bad + ["-tight"] * tight))
        self._title = title
        self._text = lines

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)

    def on_mount(self) -> None:
        entitle(self.query_one(".panel"), f" {self._title} ")
        self.query_one(".panel").border_subtitle = " esc closes "
        self.query_one(LineBox).show(self._text)


def error_panel(what: str, hint: str) -> Panel:
    """What went wrong, and what mends it."""
    lines: list[Line] = [((what, ""),)]
    if hint:
        lines += [(), (("hint  ", "dim"), (hint, "accent"))]
    return Panel("That did not work", lines, bad=True)


class Confirm(ModalScreen[bool]):
    """y or N."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
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

    def on_mount(self) -> None:
        entitle(self.query_one(".panel"), f" {self._title} ")
        answers: Line = (
            ("y", "accent"),
            (f"  {self._yes}    ", ""),
            ("N", "accent"),
            (f"  {self._no}", ""),
        )
        self.query_one(LineBox).show([*self._text, (), answers])


EDITOR = "\x0f"
"""In place of words: the person wants an editor for them."""


class Words(ModalScreen[str | None]):
    """A line to type; None when the person leaves it be, EDITOR where that is `offered`."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss(None)", "Leave it"),
        Binding("ctrl+o", "editor", "Open $EDITOR", priority=True),
    ]

    def __init__(
        self, title: str, lines: Sequence[Line], first: str = "", *, offered: bool = False
    ) -> None:
        super().__init__()
        self._title, self._text, self._first, self._offered = title, lines, first, offered

    def action_editor(self) -> None:
        if self._offered:
            self.dismiss(EDITOR)
        else:
            self.app.bell()

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)
            yield Input(self._first, id="typed", compact=True, max_length=2_000)

    def on_mount(self) -> None:
        entitle(self.query_one(".panel"), f" {self._title} ")
        self.query_one(".panel").border_subtitle = " enter asks for it · esc leaves it be "
        self.query_one(LineBox).show(self._text)
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.dismiss(event.value.strip())
        else:
            self.app.bell()


class TypeId(ModalScreen[bool]):
    """For what cannot be undone: its id must be typed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss(False)", "No")]

    def __init__(self, title: str, lines: Sequence[Line], id: int) -> None:
        super().__init__()
        self._title, self._text, self._trial = title, lines, id

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True)
            yield Input(id="typed", compact=True, restrict=r"[0-9]*", max_length=12)

    def on_mount(self) -> None:
        entitle(self.query_one(".panel"), f" {self._title} ")
        ask: Line = (
            ("Type ", ""),
            (str(self._trial), "accent"),
            (" and enter, or ", ""),
            ("esc", "accent"),
            (" to leave it be.", ""),
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
