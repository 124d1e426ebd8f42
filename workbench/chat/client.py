"""The person's side of a chat session: open it, ask, read answers as they are generated, leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from workbench import formatting
from workbench.chat.session_files import LineFollower, append_line, session_of
from workbench.errors import EngineError, UsageError, WorkbenchError
from workbench.machine.locks import Lock
from workbench.service import ANSWER_S, Service
from workbench.store.rows import TrialRow
from workbench.text import safe_line, safe_text

POLL_S = 0.05
"""Seconds between two looks at the answers."""
MOST_CHARACTERS = 200_000
"""Most characters of one piece of an answer that are passed on."""


class ChatEnded(EngineError):
    """The session is over: its trial has ended, or the engine has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of an answer, in the order in which it was generated."""

    subject: int
    """Index of the model that answers, in the session's list."""
    text: str = ""
    """New text, safe to print; empty in the last piece."""
    ended_by: str | None = None
    """`end`, `length` or `cancelled` in the last piece of an answer; None before."""
    tokens: int = 0
    """Generated tokens, in the last piece."""
    seconds: float = 0.0
    """Seconds that the whole answer took, in the last piece."""
    again: bool = False
    """True where the worker was lost and the answer begins once more: the text so far is void."""


class ChatSession:
    """An open session with one or several models on one base.

    Holds a lock as long as it is open: when this process ends, however it ends, the worker notices
    and gives the card back.
    """

    def __init__(self, service: Service, subjects: Sequence[int | None], trial: int) -> None:
        self._service = service
        self.subjects = list(subjects)
        """Ids of the trials that answer; None stands for the base."""
        self.trial = trial
        """The trial of kind `chat` that holds the card."""
        self._files = session_of(service.home.trial(trial))
        self._answers = LineFollower(self._files.answers)
        self._number = 0
        self._inbox: dict[Any, list[dict[str, Any]]] = {}
        """The lines of each open answer that were read and not yet passed on."""
        self._ready = False
        self._lock = Lock(self._files.lock)

    @classmethod
    def open(
        cls,
        service: Service,
        subjects: Sequence[int | None],
        timeout_s: float = ANSWER_S,
        left: Callable[[], bool] = lambda: False,
    ) -> Self:
        """Ask the engine for a session and return it; it waits for a card like any trial.

        A dead engine is started.

        Raises the engine's refusal: an unknown trial, one without an adapter, another base; and
        EngineError where the engine is stopped, or as soon as `left` returns True before the
        answer. A session that is granted later has nobody in it, and ends by itself.
        """
        if not service.ensure_engine():
            raise EngineError(
                "the engine is stopped, and a chat needs one of its cards",
                hint="`workbench engine start`, or E on the screen, starts it",
            )
        request = service.send("chat", subjects=list(subjects))
        answer = service.wait_for_answer(request, timeout_s, left)
        session = cls(service, subjects, int(answer.data["trial"]))
        session._files.folder.mkdir(parents=True, exist_ok=True)
        if not session._lock.take():
            raise EngineError("the chat's lock is held", hint="open the chat again")
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave: the worker sees it within a second and ends the session's trial.

        A session that still waits for a card is stopped by a request.
        """
        waits = not self._service.trial(self.trial).trial.state.live
        self._lock.release()
        if waits and not self._service.trial(self.trial).trial.state.final:
            self._service.stop(self.trial)

    def wait_until_ready(
        self,
        show: Callable[[str], None] = lambda text: None,
        left: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until the models are loaded, or until `left` returns True.

        `show` gets what the session waits for, each time it changes.
        Raises ChatEnded with the trial's reason where it ends before.
        """
        said = ""
        while not self._ready and not left():
            for line in self._answers.new_lines():
                self._ready = self._ready or bool(line.get("ready"))
            trial = self.check_open()
            words = _progress_words(trial)
            if words != said and not self._ready:
                show(words)
                said = words
            time.sleep(POLL_S)

    def check_open(self) -> TrialRow:
        """Return the session's trial. Raises ChatEnded where it or the engine has ended."""
        trial = self._service.trial(self.trial).trial
        if trial.state.final:
            reason = safe_line(trial.reason) or f"it is {trial.state}"
            raise ChatEnded(f"the chat has ended: {reason}", hint=safe_line(trial.hint))
        if self._service.engine().has_ended:
            raise ChatEnded("the engine has ended", hint="workbench engine start")
        return trial

    def ask(
        self,
        subject: int,
        messages: Sequence[dict[str, str]],
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answer:
        """Ask one model and return its answer, whose pieces come as they are generated.

        `messages` is the conversation so far, the person's message last. Questions that are asked
        before others are answered are answered together, where the model allows it. Raises
        UsageError for a conversation that does not end with the person's message.
        """
        if not messages or messages[-1]["role"] != "user":
            raise UsageError("the last message is not the person's", hint="add a user message")
        self._number += 1
        self._inbox[self._number] = []
        question = {
            "number": self._number,
            "subject": subject,
            "messages": list(messages),
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        append_line(self._files.questions, question)
        return Answer(self, subject, self._number)

    def next_line(self, number: int) -> dict[str, Any]:
        """Wait for the next line of an open answer and return it.

        Raises ChatEnded where the session has ended.
        """
        next_look_s = 0.0
        while not self._inbox[number]:
            for line in self._answers.new_lines():  # those of closed answers are left out
                self._inbox.get(line.get("number"), []).append(line)
            if not self._inbox[number]:
                if time.monotonic() > next_look_s:
                    self.check_open()
                    next_look_s = time.monotonic() + 1.0
                time.sleep(POLL_S)
        return self._inbox[number].pop(0)

    def close_answer(self, number: int, *, cancel: bool) -> None:
        """Forget an answer; with `cancel` the model stops writing it."""
        self._inbox.pop(number, None)
        if cancel:
            append_line(self._files.questions, {"cancel": number})


class Answer:
    """One model's answer as it is generated: an iterator over its pieces, the last with its end.

    Iterating raises WorkbenchError where the model refuses the conversation, and ChatEnded where
    the session has ended.
    """

    def __init__(self, session: ChatSession, subject: int, number: int) -> None:
        self._session, self._subject, self._number = session, subject, number
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        if self._over:
            raise StopIteration
        line = self._session.next_line(self._number)
        if "ended_by" in line or "error" in line:
            self._over = True
            self._session.close_answer(self._number, cancel=False)
        return _piece_of(self._subject, line)

    def close(self) -> None:
        """Cancel the rest of the answer, if there is any."""
        if not self._over:
            self._over = True
            self._session.close_answer(self._number, cancel=True)


def _piece_of(subject: int, line: dict[str, Any]) -> Piece:
    """Return the piece of an answer's line. Raises WorkbenchError for a line that is an error."""
    if "error" in line:
        raise WorkbenchError(safe_line(line["error"]), hint=safe_line(line.get("hint") or ""))
    ended_by = line.get("ended_by")
    return Piece(
        subject=subject,
        text=safe_text(line.get("text") or "", MOST_CHARACTERS),
        ended_by=None if ended_by is None else str(ended_by),
        tokens=int(line.get("tokens") or 0),
        seconds=float(line.get("seconds") or 0.0),
        again=bool(line.get("again")),
    )


def _progress_words(trial: TrialRow) -> str:
    """Return what the session waits for, in words."""
    if trial.state.live:
        return f"{trial.phase or 'starting'} on {trial.card}"
    return safe_line(trial.waiting) or formatting.outcome_word(trial.state, trial.reason)
