"""The states of a trial, and every move between them.

To learn how a trial gets from queued to done, read MOVES: each row names the function of
`workbench.scheduler` that makes the move.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The state of a trial, as stored in the database."""

    QUEUED = "queued"
    """Waits for a card; the column `waiting` says for what."""
    STARTING = "starting"
    """Sent to a card's worker, which has not reported yet."""
    RUNNING = "running"
    PAUSED = "paused"
    """Checkpointed and without a card, until a person resumes it."""
    DONE = "done"
    STOPPED = "stopped"
    """Ended by a person; its last committed checkpoint is its adapter, unless it was killed."""
    PRUNED = "pruned"
    """Ended early by the early stopper or because it diverged, with its adapter kept; or never
    started, because the budget of its sweep was spent."""
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """True if no move leads out of this state."""
        return self in FINAL

    @property
    def live(self) -> bool:
        """True while an attempt holds a card."""
        return self in LIVE


KILLED = "killed"
"""The reason on the row of a trial that was killed, and the word for its state."""
FINAL = frozenset({State.DONE, State.STOPPED, State.PRUNED, State.FAILED})
LIVE = frozenset({State.STARTING, State.RUNNING})


def outcome_word(state: str, reason: str) -> str:
    """Return the state's word, and `killed` for a trial that was stopped without keeping anything.

    Both kinds of ends are the state `stopped`; the engine gives a kill that word as its reason.
    """
    return KILLED if state == State.STOPPED and reason == KILLED else str(state)


class DesiredState(StrEnum):
    """The state that a person has requested for a trial; `reconcile` works towards it."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    KILL = "kill"


class Kind(StrEnum):
    """The kind of a trial."""

    TUNE = "tune"
    """Trains one adapter."""
    BASE = "base"
    """Scores the untouched base once, for comparison; trains nothing."""
    SCORE = "score"
    """Scores one adapter, or the base, on rows that its settings name; trains nothing."""
    CHAT = "chat"
    """Answers a person's questions on a card as long as the person is there; trains nothing."""


UNTRAINED = {
    Kind.BASE: "scores the untouched base",
    Kind.SCORE: "scores an adapter",
    Kind.CHAT: "is a chat",
}
"""Kinds of trials that train no adapter, each with its work as the predicate of a sentence."""

DOWN_IS_BETTER = frozenset({"loss", "eval_loss", "perplexity"})
"""Scores of the workbench's own of which a lower value is better."""
LOWER_SUFFIX = ":min"
"""The end of the name of a user's own score of which a lower value is better."""


def up_is_better(score: str) -> bool:
    """Return True if a higher value of this score is better.

    The name alone decides, so that a board can be ranked without loading anything.
    """
    return score not in DOWN_IS_BETTER and not score.endswith(LOWER_SUFFIX)


@dataclass(frozen=True, slots=True)
class Move:
    """A legal move of a trial from one state to another, with the function that makes it."""

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

# By function too: a legal move made by the wrong part of the scheduler is a bug.
LEGAL = frozenset((move.before, move.after, move.by) for move in MOVES)
