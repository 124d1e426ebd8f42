"""The one thread that reads: its own Service, a look at the store so many times a second.

It posts facts and never touches a widget. Nothing is posted while nothing changed, and no second
picture before the first was painted, so a slow line sets its own pace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from textual.message import Message

from tui.messages import (
    ALL_EVENTS,
    AskFailed,
    Picture,
    ReadFailed,
    RequestAnswered,
    RequestDropped,
    Seen,
    Wants,
)
from workbench.errors import NotThere, WorkbenchError
from workbench.service import Service
from workbench.store.damage import in_words
from workbench.text import safe_line

POINTS = 400
"""Asked of the store for one curve: two for each cell of a wide chart."""
QUICK_S, ANSWERED_S = 0.1, 5.0
"""While a person waits for an answer it is looked for so often, for so long."""
PAINT_LIMIT_S = 10.0
"""A picture nobody acknowledged for so long is taken for painted."""

Question = Callable[[Service], Message]


class Poller:
    """Runs in a thread of its own until `stop`; everything else may be called from any thread."""

    def __init__(
        self, service: Service, post: Callable[[Message], object], period_s: float = 0.5
    ) -> None:
        self._service = service
        self._post = post
        self._period_s = period_s
        self._wants = Wants()
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._waiting: dict[str, RequestDropped] = {}
        self._quick_until_s = 0.0
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._painted = threading.Event()
        self._painted.set()
        self._last: object = None
        self._failed = ""

    def want(self, wants: Wants) -> None:
        """From now on read this too; at once when it is something else than before."""
        if wants != self._wants:
            self._wants = wants
            self._wake.set()

    def ask(self, question: Question) -> None:
        """Run `question` in the thread and post what it returns; AskFailed when it raises."""
        self._questions.put(question)
        self._wake.set()

    def painted(self) -> None:
        self._painted.set()

    def stop(self) -> None:
        self._stopped.set()
        self._wake.set()
        self._painted.set()

    def run(self) -> None:
        service = self._fresh()
        try:
            while not self._stopped.is_set():
                self._serve(service)
                if not self._look(service):
                    _close(service)
                    service = self._fresh()
                quick = self._waiting and time.monotonic() < self._quick_until_s
                self._wake.wait(min(QUICK_S, self._period_s) if quick else self._period_s)
                self._wake.clear()
        finally:
            _close(service)

    def _fresh(self) -> Service:
        return type(self._service)(self._service.home, self._service.clock)

    def _serve(self, service: Service) -> None:
        while not self._stopped.is_set():
            try:
                question = self._questions.get_nowait()
            except queue.Empty:
                return
            try:
                fact = question(service)
            except Exception as broken:
                self._post(AskFailed(*_told(broken)))
                continue
            if isinstance(fact, RequestDropped):
                self._waiting[fact.request] = fact
                self._quick_until_s = time.monotonic() + ANSWERED_S
            self._post(fact)

    def _look(self, service: Service) -> bool:
        """False when the store could not be read."""
        try:
            wants = self._wants
            state = (service.version(), wants)
            if state == self._last:
                return True
            if not self._painted.wait(PAINT_LIMIT_S) or self._stopped.is_set():
                return True
            picture = look(service, wants)
            self._answers(service)
        except Exception as broken:
            what, hint = _told(broken)
            if what != self._failed:
                self._failed = what
                self._post(ReadFailed(what, hint))
            self._last = None
            return False
        self._failed = ""
        self._last = state
        self._painted.clear()
        self._post(Seen(picture))
        return True

    def _answers(self, service: Service) -> None:
        for request, dropped in list(self._waiting.items()):
            answer = service.answer(request)
            if answer is not None:
                del self._waiting[request]
                self._post(RequestAnswered(dropped, answer))


def look(service: Service, wants: Wants) -> Picture:
    """One picture. A trial or experiment that is not there leaves its part empty."""
    snapshot = service.snapshot()
    if service.reader() is None:
        return Picture(snapshot=snapshot, wants=wants, at_utc=service.clock())
    detail = board = None
    try:
        detail = None if wants.detail is None else service.trial(wants.detail)
        if wants.board is not None:
            experiment, rows = service.board(wants.board)
            board = (experiment, tuple(rows))
    except NotThere:
        pass
    events = []
    if wants.events_of is not None:
        trial = None if wants.events_of == ALL_EVENTS else wants.events_of
        events = service.events(trial=trial, limit=wants.events)
    return Picture(
        snapshot=snapshot,
        wants=wants,
        at_utc=service.clock(),
        series={key: tuple(service.series(*key, points=POINTS)) for key in wants.series},
        detail=detail,
        board=board,
        queue=tuple(service.queue()) if wants.queue else (),
        events=tuple(events),
    )


def _close(service: Service) -> None:
    try:
        reader = service.reader()
    except Exception:  # it could not be opened: there is nothing to close
        return
    if reader is not None:
        reader.close()


def _told(broken: Exception) -> tuple[str, str]:
    """What happened and its mend, of any error."""
    if type(broken).__module__ == "sqlite3":
        broken = in_words(broken)
    if isinstance(broken, WorkbenchError):
        return safe_line(broken.what), safe_line(broken.hint)
    return (
        f"{type(broken).__name__}: {safe_line(broken)}",
        "this is a mistake in the workbench; training is not touched by it",
    )
