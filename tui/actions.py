"""The user's actions on trials and on the engine, as questions for the poller.

Each builder returns a `Question`: a function that the poller runs in its own thread, with its own
Service, and whose result it posts to the app as a message.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.message import Message

from tui import present
from tui.messages import (
    ComparisonRead,
    ImportanceRead,
    RequestDropped,
    RequestsDropped,
    StopLookedUp,
    Wish,
)
from tui.poller import Question
from workbench import formatting
from workbench.service import Service, Snapshot, TrialRow
from workbench.trial import State

_EVENTS = 400
"""Events of a trial that are searched for its newest checkpoint."""
ACT_VERBS = ("stop", "kill", "pause", "resume")
"""Requests that act on a trial without further input."""
_PAUSABLE = (State.QUEUED, State.STARTING, State.RUNNING)


class EngineStarted(Message):
    """The engine was checked and started where needed; `text` answers a user who asked for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


def request_engine_start(*, asked: bool) -> Question:
    """Start the engine: if the user `asked`, after any kind of end; else only after a crash.

    An engine that the user stopped stays stopped until the user asks.
    """

    def question(service: Service) -> Message:
        if not asked:
            service.ensure_engine()
            return EngineStarted("")
        engine = service.engine()
        if engine.state == "stopping":  # waiting for its end here would stop all reading
            return EngineStarted("the engine is stopping; start it once it has stopped")
        stopping = service.stopping()
        if not engine.has_ended and not stopping:
            return EngineStarted("the engine is running already")
        service.start_engine()
        return EngineStarted(f"the engine {'goes on' if stopping else 'is starting'}")

    return question


def look_up_stop(trial: int, *, kill: bool) -> Question:
    """Read what the user should know before stopping the trial: its state and last checkpoint."""

    def question(service: Service) -> Message:
        detail = service.trial(trial)
        made = [
            event.at_utc
            for event in service.events(trial=trial, limit=_EVENTS)
            if event.kind == "checkpoint"
        ]
        return StopLookedUp(detail, made[-1] if made else None, kill)

    return question


def read_importance(experiment: int) -> Question:
    """Compute which of the experiment's settings influenced the rank of its trials."""
    return lambda service: ImportanceRead(service.importance(experiment))


def read_comparison(trials: tuple[int, ...]) -> Question:
    """Compare trials on the rows that all of them were scored on."""
    return lambda service: ComparisonRead(service.compare(trials))


def send_wishes(wishes: Sequence[tuple[Wish, Wish | None]]) -> Question:
    """Drop requests for the engine, each with the request that undoes it."""

    def question(service: Service) -> Message:
        return RequestsDropped(
            [
                RequestDropped(service.send(wish.verb, **wish.args), wish, revert)
                for wish, revert in wishes
            ]
        )

    return question


def act_refusal(verb: str, row: TrialRow) -> str:
    """Return why `verb` is impossible for the trial; an empty string where it is possible."""
    if row.state.final:
        return f"it has ended already ({row.state})"
    if verb == "pause" and row.state not in _PAUSABLE:
        return "it is paused already; r resumes it"
    if verb == "resume" and row.state is not State.PAUSED and row.desired_state == "run":
        return f"it is {row.state}; only a paused one can be resumed"
    return ""


def farewell_text(snapshot: Snapshot | None) -> str:
    """Return what to print on leaving: what keeps running, how to come back, how to end it."""
    if snapshot is None or not (snapshot.trials or snapshot.experiments):
        return "Come back with `workbench`; try `workbench demo` to see it at work."
    tuned = list(filter(present.is_counted, snapshot.trials))
    live = sum(row.state.live for row in tuned)
    waiting = sum(row.state is State.QUEUED for row in tuned)
    growing = sum(one.state == "preparing" or one.searching for one in snapshot.experiments)
    if snapshot.engine.has_ended:
        left = f" {formatting.plural(waiting, 'trial')} wait." if waiting else ""
        return f"The engine is not running, so nothing trains.{left} Come back with `workbench`."
    if not live and not waiting and not growing:
        paused = sum(row.state is State.PAUSED for row in tuned)
        rest = f"Nothing trains; {formatting.plural(paused, 'trial')} paused."
        return f"{rest if paused else 'Nothing is left to train.'} Come back with `workbench`."
    counts = [f"{formatting.plural(live, 'trial')} training"] if live else []
    counts += [f"{waiting} waiting"] if waiting else []
    counts += [f"{formatting.plural(growing, 'experiment')} with trials to come"] if growing else []
    return (
        f"Training goes on without you: {', '.join(counts)}.\n"
        "Come back with `workbench`; end it with `workbench engine stop`, "
        "one trial with `workbench stop ID`."
    )
