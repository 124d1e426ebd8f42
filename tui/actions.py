"""What a person can do to trials and engine, as questions for the poller, and the words for it."""

from __future__ import annotations

from textual.message import Message

from tui import present
from tui.messages import MatteredTold, RequestDropped, StopLookedUp
from tui.poller import Question
from workbench.service import Service, Snapshot, TrialRow
from workbench.trial import Kind, State

_EVENTS = 400
"""Read back to find when the last checkpoint was made."""
_UNDO = {
    "pause": "r undoes it",
    "resume": "p undoes it",
}
_PAUSABLE = (State.QUEUED, State.STARTING, State.RUNNING)


class Started(Message):
    """The engine was looked after; `words` are for a person who asked."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words


def starter(*, asked: bool) -> Question:
    """Start the engine: whatever state it is in when a person asked, else only if it died."""

    def question(service: Service) -> Message:
        state = service.engine().state
        if not asked:
            service.ensure_engine()
            return Started("")
        if state in ("running", "starting", "late"):
            return Started("the engine is there already")
        service.start_engine()
        return Started("the engine is starting")

    return question


def looker(trial: int, *, kill: bool) -> Question:
    """What stopping it would mean."""

    def question(service: Service) -> Message:
        detail = service.trial(trial)
        made = [
            event.at_utc
            for event in service.events(trial=trial, limit=_EVENTS)
            if event.kind == "checkpoint"
        ]
        return StopLookedUp(detail, made[-1] if made else None, kill)

    return question


def mattered(experiment: int) -> Question:
    """Which of its settings mattered."""
    return lambda service: MatteredTold(service.importance(experiment))


def dropper(verb: str, trial: int) -> Question:
    """Leave a request of that verb for the engine."""

    def question(service: Service) -> Message:
        if verb == "pause":
            request = service.pause(trial)
        elif verb == "resume":
            request = service.resume(trial)
        else:
            request = service.stop(trial, kill=verb == "kill")
        return RequestDropped(request, verb, trial, _UNDO.get(verb, ""))

    return question


def refusal(verb: str, row: TrialRow) -> str:
    """Why that cannot be done to it; empty when it can."""
    if row.state.final:
        return f"it has ended already ({row.state})"
    if verb == "pause" and row.state not in _PAUSABLE:
        return "it is paused already; r resumes it"
    if verb == "resume" and row.state is not State.PAUSED and row.desired_state == "run":
        return f"it is {row.state}; only a paused one can be resumed"
    return ""


def farewell(snapshot: Snapshot | None) -> str:
    """What goes on after leaving, and how to come back or to end it."""
    if snapshot is None or not (snapshot.trials or snapshot.experiments):
        return "Come back with `workbench`; try `workbench demo` to see it at work."
    tuned = [row for row in snapshot.trials if row.kind is Kind.TUNE]
    live = sum(row.state.live for row in tuned)
    waiting = sum(row.state is State.QUEUED for row in tuned)
    if snapshot.engine.state in ("stopped", "down"):
        left = f" {present.count(waiting, 'trial')} wait." if waiting else ""
        return f"The engine is not running, so nothing trains.{left} Come back with `workbench`."
    if not live and not waiting:
        return "Nothing is left to train. Come back with `workbench`."
    told = [f"{present.count(live, 'trial')} at work"] if live else []
    told += [f"{waiting} waiting"] if waiting else []
    return (
        f"Training goes on without you: {', '.join(told)}.\n"
        "Come back with `workbench`; end it with `workbench engine stop`, "
        "one trial with `workbench stop ID`."
    )
