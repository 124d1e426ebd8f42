"""Where a trial can be, and every move it may make.

To learn how a trial gets from queued to done, read MOVES: each row names the function of
`workbench.scheduler` that makes the move.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    QUEUED = "queued"
    """Waits for a card; `Trial.waiting` says for what."""
    STARTING = "starting"
    """Given to a card's worker, which has not reported yet."""
    RUNNING = "running"
    PAUSED = "paused"
    """Checkpointed and off its card, until somebody resumes it."""
    DONE = "done"
    STOPPED = "stopped"
    """Ended by a person; its last committed checkpoint is its adapter, unless it was killed."""
    PRUNED = "pruned"
    """Ended early: by the early stopper or because its loss went away, with its adapter kept; or
    never begun, because its sweep's budget was spent."""
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in FINAL

    @property
    def live(self) -> bool:
        """True while an attempt holds a card."""
        return self in LIVE


FINAL = frozenset({State.DONE, State.STOPPED, State.PRUNED, State.FAILED})
LIVE = frozenset({State.STARTING, State.RUNNING})


class DesiredState(StrEnum):
    """What a person wants of a trial; `settle` works until it is so."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    KILL = "kill"


class Kind(StrEnum):
    TUNE = "tune"
    """Trains one adapter."""
    BASE = "base"
    """Scores the untouched base once, for comparison; trains nothing."""


UP_IS_BETTER = frozenset({"exact_match", "token_accuracy"})
"""Of the scores a trial leaves; of the others (loss, perplexity) down is."""


def up_is_better(score: str) -> bool:
    return score in UP_IS_BETTER


@dataclass(frozen=True, slots=True)
class Move:
    before: State
    after: State
    by: str
    """The function of `workbench.scheduler` that makes this move."""


MOVES: tuple[Move, ...] = (
    Move(State.QUEUED, State.STARTING, by="place"),
    Move(State.QUEUED, State.PAUSED, by="reconcile"),
    Move(State.QUEUED, State.STOPPED, by="reconcile"),
    Move(State.QUEUED, State.PRUNED, by="reconcile"),
    Move(State.QUEUED, State.FAILED, by="place"),
    Move(State.STARTING, State.RUNNING, by="reconcile"),
    Move(State.STARTING, State.DONE, by="reconcile"),
    Move(State.STARTING, State.QUEUED, by="reconcile"),
    Move(State.STARTING, State.PAUSED, by="reconcile"),
    Move(State.STARTING, State.STOPPED, by="reconcile"),
    Move(State.STARTING, State.FAILED, by="reconcile"),
    Move(State.RUNNING, State.DONE, by="reconcile"),
    Move(State.RUNNING, State.QUEUED, by="reconcile"),
    Move(State.RUNNING, State.PAUSED, by="reconcile"),
    Move(State.RUNNING, State.STOPPED, by="reconcile"),
    Move(State.RUNNING, State.PRUNED, by="reconcile"),
    Move(State.RUNNING, State.FAILED, by="reconcile"),
    Move(State.STARTING, State.QUEUED, by="recover"),
    Move(State.STARTING, State.FAILED, by="recover"),
    Move(State.RUNNING, State.QUEUED, by="recover"),
    Move(State.RUNNING, State.FAILED, by="recover"),
    Move(State.PAUSED, State.QUEUED, by="reconcile"),
    Move(State.PAUSED, State.STOPPED, by="reconcile"),
)

LEGAL = frozenset((move.before, move.after, move.by) for move in MOVES)
