"""A chat with adapters on one base, over whatever view it was opened from."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Input
from textual.worker import get_current_worker

from tui.paint import Line
from tui.screens.panel import Overlay
from tui.widgets.linebox import LineBox, set_title
from tui.widgets.lineinput import LineInput
from workbench.chat.client import Answer, ChatSession
from workbench.errors import WorkbenchError
from workbench.service import Service
from workbench.text import safe_line

PAINT_S = 0.25
"""Seconds between two paintings of an answer that grows: a token each would flood a slow line."""
_LOOK_S = 0.1
"""Seconds after which the thread looks whether the screen was closed."""


@dataclass(slots=True)
class Turn:
    """One question or answer as it is shown."""

    name: str
    text: str = ""
    note: str = ""
    """Words behind a finished answer: its tokens, or why it ended."""


@dataclass(slots=True)
class Transcript:
    """Everything that was said; the thread writes it and the screen paints it."""

    turns: list[Turn] = field(default_factory=list)
    status: str = "waiting for a card"

    def lines(self) -> list[Line]:
        """Return the turns as lines, the status last."""
        shown: list[Line] = []
        for turn in list(self.turns):
            head, *rest = turn.text.splitlines() or [""]
            mine = turn.name == ""
            shown.append(((f"{turn.name or '>'} ", "accent" if mine else "head"), (head, "")))
            shown += [((f"  {line}", ""),) for line in rest]
            if turn.note:
                shown.append(((f"  {turn.note}", "dim"),))
            if not mine:
                shown.append(())
        if self.status:
            shown.append(((safe_line(self.status), "dim"),))
        return shown


class ChatFailed(Message):
    """The chat could not be opened, or has ended."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__()
        self.what, self.hint = what, hint


class Chat(Overlay[None]):
    """Questions typed below, answers of every model above; escape leaves and frees the card."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "Leave the chat", priority=True),
        Binding("ctrl+x", "cancel", "End the answer that is being written", priority=True),
        Binding("pageup", "scroll(-1)", show=False, priority=True),
        Binding("pagedown", "scroll(1)", show=False, priority=True),
    ]

    def __init__(self, open_service: Callable[[], Service], subjects: Sequence[int | None]) -> None:
        """`open_service` gives the chat's thread a Service of its own; None stands for the base."""
        super().__init__(classes="-chat")
        self._open_service = open_service
        self._subjects = list(subjects)
        self._names = ["base" if one is None else f"#{one}" for one in subjects]
        self.transcript = Transcript()
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._cancel = False
        self._shown: list[Line] = []

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="panel"):
            yield LineBox(wrapped=True, indent=2)
        yield LineInput(id="typed", compact=True, max_length=8_000, placeholder="ask")

    def fill(self) -> None:
        panel = self.query_one(".panel")
        set_title(panel, f" Chat: {', '.join(self._names)} ")
        panel.border_subtitle = " enter asks · ctrl+x ends an answer · esc leaves "
        self.query_one(Input).focus()
        self._paint()
        self.set_interval(PAINT_S, self._paint)
        self._talk()

    def _paint(self) -> None:
        lines = self.transcript.lines()
        if lines != self._shown:
            self._shown = lines
            self.query_one(LineBox).show(lines)
            self.call_after_refresh(self.query_one(VerticalScroll).scroll_end, animate=False)

    def action_scroll(self, by: int) -> None:
        panel = self.query_one(VerticalScroll)
        panel.scroll_relative(y=by * max(panel.size.height - 1, 1), animate=False)

    def action_cancel(self) -> None:
        self._cancel = True

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self._asked.put(event.value.strip())
            event.input.value = ""

    # --- the thread that talks to the engine

    @work(thread=True, exit_on_error=False, name="chat")
    def _talk(self) -> None:
        service = self._open_service()
        try:
            with ChatSession.open(service, self._subjects, left=self._left) as session:
                session.wait_until_ready(self._show_status, self._left)
                self._show_status("")
                said: list[list[dict[str, str]]] = [[] for _ in self._subjects]
                while not self._left():
                    try:
                        question = self._asked.get(timeout=_LOOK_S)
                    except queue.Empty:
                        session.check_open()
                        continue
                    self._answer_all(session, question, said)
        except WorkbenchError as refused:
            if not self._left():
                self.post_message(ChatFailed(refused.what, refused.hint))
        finally:
            service.close()

    def _left(self) -> bool:
        return get_current_worker().is_cancelled or not self.is_attached

    def _show_status(self, text: str) -> None:
        self.transcript.status = text

    def _answer_all(
        self, session: ChatSession, question: str, said: list[list[dict[str, str]]]
    ) -> None:
        self.transcript.turns.append(Turn("", safe_line(question, 8_000)))
        for messages in said:
            messages.append({"role": "user", "content": question})
        with ExitStack() as held:
            asked = [
                held.enter_context(closing(session.ask(subject, messages)))
                for subject, messages in enumerate(said)
            ]
            for answer, name, messages in zip(asked, self._names, said, strict=True):
                if self._left():
                    return
                turn = Turn(name)
                self.transcript.turns.append(turn)
                self._answer(answer, turn)
                messages.append({"role": "assistant", "content": turn.text})

    def _answer(self, answer: Answer, turn: Turn) -> None:
        """Write one answer into its turn as it comes."""
        self._cancel = False
        for piece in answer:
            turn.text = "" if piece.again else turn.text + piece.text
            if piece.ended_by is not None:
                cut = "" if piece.ended_by == "end" else f", {piece.ended_by}"
                turn.note = f"{piece.tokens} tokens{cut}"
            elif self._cancel or self._left():
                turn.note = "cancelled"
                answer.close()

    @on(ChatFailed)
    def _failed(self, fact: ChatFailed) -> None:
        hint = f" → {fact.hint}" if fact.hint else ""
        self.transcript.status = f"{fact.what}{hint}"
        self.query_one(Input).disabled = True
        self._paint()
