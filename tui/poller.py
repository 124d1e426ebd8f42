"""The one thread of the screen that reads the store, with a Service of its own.

It posts messages and never touches a widget. It posts nothing while the store is unchanged, and
no second picture before the first was painted: a slow terminal line sets the rate by itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from textual.message import Message

from tui.card_names import name_cards, name_in_events
from tui.messages import (
    ALL_EVENTS,
    AskFailed,
    DataNeeds,
    Picture,
    ReadFailed,
    RequestAnswered,
    RequestDropped,
    RequestsDropped,
    StoreRead,
)
from workbench.errors import NotThere, WorkbenchError
from workbench.service import Service, Snapshot, TrialDetail
from workbench.store.recovery.damage import to_store_error
from workbench.text import safe_line

POINTS = 400
"""Points read for one curve: two for each cell of a wide chart."""
QUICK_S = 0.1
"""Period of reading while the user waits for the engine's answer to a request."""
ANSWERED_S = 5.0
"""Seconds for which the poller reads that often after a request."""
PAINT_LIMIT_S = 10.0
"""A picture that the app did not acknowledge for so long counts as painted."""

Question = Callable[[Service], Message]
"""A function that the poller calls with its Service; the message it returns is posted."""


class Poller:
    """A reader that runs in a thread of its own until `stop`.

    All other methods return at once and may be called from any thread.
    """

    def __init__(
        self, service: Service, post: Callable[[Message], object], period_s: float = 0.5
    ) -> None:
        self._service = service
        self._post = post
        self._period_s = period_s
        self._needs = DataNeeds()
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        self._waiting: dict[str, RequestDropped] = {}
        self._quick_until_s = 0.0
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._painted = threading.Event()
        self._painted.set()  # nothing is being painted yet
        self._last: object = None
        self._read_at: object = None
        self._snapshot: Snapshot | None = None
        self._failed = ""

    def read_also(self, needs: DataNeeds) -> None:
        """Read what `needs` names beside the snapshot from now on; at once where it changed."""
        if needs != self._needs:
            self._needs = needs
            self._wake.set()

    def ask(self, question: Question) -> None:
        """Call `question` in the thread and post what it returns, or AskFailed if it raises."""
        self._questions.put(question)
        self._wake.set()

    def painted(self) -> None:
        """Acknowledge the last picture, so that the next one may be posted."""
        self._painted.set()

    def stop(self) -> None:
        """End `run` within one reading."""
        self._stopped.set()
        self._wake.set()
        self._painted.set()

    def run(self) -> None:
        """Read and answer until `stop`; call it in the thread that shall do so."""
        service = self._new_service()
        try:
            while not self._stopped.is_set():
                self._answer_questions(service)
                if not self._read(service):
                    # A repaired database is another file: only a new connection sees it.
                    _close(service)
                    had_database = service.had_database
                    service = self._new_service()
                    service.had_database = had_database
                quick = self._waiting and time.monotonic() < self._quick_until_s
                self._wake.wait(min(QUICK_S, self._period_s) if quick else self._period_s)
                self._wake.clear()
        finally:
            _close(service)

    def _new_service(self) -> Service:
        """Return a Service for this thread, since SQLite connections belong to one thread."""
        return type(self._service)(self._service.home, self._service.clock)

    def _answer_questions(self, service: Service) -> None:
        while not self._stopped.is_set():
            try:
                question = self._questions.get_nowait()
            except queue.Empty:
                return
            try:
                service.refuse_without_home()
                fact = question(service)
            except Exception as broken:
                self._post(AskFailed(*error_text(broken)))
                continue
            if isinstance(fact, RequestsDropped):
                self._waiting |= {one.request: one for one in fact.dropped}
                self._quick_until_s = time.monotonic() + ANSWERED_S
            self._post(fact)

    def _read(self, service: Service) -> bool:
        """Post a picture where something changed; return False when the store is unreadable."""
        try:
            needs = self._needs
            state = (service.version(), needs)
            if state == self._last:
                return True
            # Waiting here paces the screen: a slow terminal gets fewer pictures, never a backlog.
            if not self._painted.wait(PAINT_LIMIT_S) or self._stopped.is_set():
                return True
            same = state[0] == self._read_at if self._snapshot else False
            picture = read_picture(service, needs, self._snapshot if same else None)
            self._post_answers(service)
        except Exception as broken:
            what, hint = error_text(broken)
            if what != self._failed:  # one panel for each failure, not one for each attempt
                self._failed = what
                self._post(ReadFailed(what, hint))
            self._last = self._snapshot = None
            return False
        self._failed = ""
        self._last, self._read_at, self._snapshot = state, state[0], picture.snapshot
        self._painted.clear()
        self._post(StoreRead(picture))
        return True

    def _post_answers(self, service: Service) -> None:
        for request, dropped in list(self._waiting.items()):
            answer = service.answer(request)
            if answer is not None:
                del self._waiting[request]
                self._post(RequestAnswered(dropped, answer))


def read_picture(service: Service, needs: DataNeeds, known: Snapshot | None = None) -> Picture:
    """Read one picture. The part of a trial or experiment that does not exist stays empty.

    `known` is a snapshot that is still true: reading 10,000 trials again would take 35 ms.
    """
    snapshot = replace(known, engine=service.engine()) if known else _new_snapshot(service)
    if service.reader() is None:
        return Picture(snapshot=snapshot, needs=needs, at_utc=service.clock())
    detail = board = baseline = card = None
    try:
        card = None if needs.card is None else service.card(needs.card)
        detail = None if needs.detail is None else _read_trial(service, needs.detail)
        if needs.board is not None:
            board = service.judged_board(needs.board)
            if needs.baseline is not None:
                baseline = service.baseline(needs.board, needs.baseline)
    except NotThere:
        pass
    span = None
    if needs.window is not None:
        drawn = {trial for trial, _ in needs.series}
        newest = max((row.step for row in snapshot.trials if row.id in drawn), default=0)
        span = needs.window.span(newest)
    events = []
    if needs.events_of is not None:
        trial = None if needs.events_of == ALL_EVENTS else needs.events_of
        events = service.events(
            trial=trial,
            limit=needs.events,
            debug=needs.debug,
            levels=needs.levels,
            cards=needs.events_on,
        )
    return Picture(
        snapshot=snapshot,
        needs=needs,
        at_utc=service.clock(),
        series={key: tuple(service.series(*key, POINTS, span)) for key in needs.series},
        detail=detail,
        board=board,
        baseline=baseline,
        card=card,
        queue=tuple(service.queue()) if needs.queue else (),
        events=name_in_events(events, snapshot),
    )


def _new_snapshot(service: Service) -> Snapshot:
    """Return the snapshot as views show it: costs as on the board, cards by their names."""
    found = service.snapshot()
    return name_cards(replace(found, trials=service.with_board_costs(found.trials)))


def _read_trial(service: Service, id: int) -> TrialDetail:
    """Return everything about a trial, with its costs as on the board."""
    detail = service.trial(id)
    (trial,) = service.with_board_costs([detail.trial])
    return replace(detail, trial=trial)


def _close(service: Service) -> None:
    try:
        reader = service.reader()
    except Exception:  # the database could not be opened, so there is nothing to close
        return
    if reader is not None:
        reader.close()


def error_text(broken: Exception) -> tuple[str, str]:
    """Return what happened and the hint, for any exception."""
    if type(broken).__module__ == "sqlite3":
        broken = to_store_error(broken)
    if isinstance(broken, WorkbenchError):
        return safe_line(broken.what), safe_line(broken.hint)
    return (
        f"{type(broken).__name__}: {safe_line(broken)}",
        "this is a bug in the workbench; it does not affect training",
    )
