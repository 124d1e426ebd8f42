"""The messages between poller, widgets, screens and app.

Each states a fact in the past tense with a frozen payload. Messages named `…Asked` come from a
screen and mean that the user asked for something; the app answers them. The others come from the
poller, which reads the store in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from textual.message import Message

from tui.curves.zoom import Window
from workbench.service import (
    Baseline,
    CardDetail,
    CardRow,
    Comparison,
    EventRow,
    ImportanceReport,
    JudgedBoard,
    Point,
    RequestAnswer,
    Snapshot,
    TrialDetail,
)

ALL_EVENTS = -1
"""A value in place of a trial's id: the events of all trials and of the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataNeeds:
    """The data that the visible screen shows beside the snapshot; the poller reads no other."""

    series: tuple[tuple[int, str], ...] = ()
    """Trial and metric of each curve."""
    window: Window | None = None
    """The steps of the curves, up to the newest step of their trials; None for the whole run."""
    detail: int | None = None
    """The trial whose attempts, moves and samples are shown."""
    board: int | None = None
    """The experiment whose board is shown."""
    baseline: int | None = None
    """The trial of that board from which the differences of the others are shown."""
    card: str | None = None
    """The UUID of the card whose history is shown."""
    queue: bool = False
    """True if the order in which trials will be placed is shown."""
    events_of: int | None = None
    """A trial, or ALL_EVENTS."""
    events: int = 60
    """The number of events, the newest ones."""
    debug: bool = False
    """True if events of the level debug are read too."""
    levels: tuple[str, ...] = ()
    """The levels of the events, unless all."""
    events_on: tuple[str, ...] = ()
    """UUIDs of the cards on which or about which the events are, unless all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A consistent reading of everything that a screen paints."""

    snapshot: Snapshot
    needs: DataNeeds
    """The subject asked for; a screen that needs another one by now waits for the next picture."""
    at_utc: float
    """The moment of the reading."""
    series: dict[tuple[int, str], tuple[Point, ...]] = field(default_factory=dict)
    detail: TrialDetail | None = None
    board: JudgedBoard | None = None
    baseline: Baseline | None = None
    card: CardDetail | None = None
    queue: tuple[int, ...] = ()
    events: tuple[EventRow, ...] = ()


class StoreRead(Message):
    """The store was read again because it, or what the screen needs, had changed."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self.picture = picture


class ReadFailed(Message):
    """The store could not be read; the poller tries again."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__()
        self.what, self.hint = what, hint


class AskFailed(Message):
    """Something that the user asked for could not be done."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__()
        self.what, self.hint = what, hint


@dataclass(frozen=True, slots=True)
class Wish:
    """A request to the engine that is not written yet: its verb and arguments."""

    verb: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RequestDropped:
    """One request that was written to the engine's folder."""

    request: str
    """Its id."""
    wish: Wish
    revert: Wish | None = None
    """The request that undoes it; None where nothing does."""


class RequestsDropped(Message):
    """Requests that the user asked for together were written to the engine's folder."""

    def __init__(self, dropped: Sequence[RequestDropped], *, typed: bool = False) -> None:
        """`typed` is true for a request that the user typed, whose text is kept until it works."""
        super().__init__()
        self.dropped, self.typed = tuple(dropped), typed


class RequestAnswered(Message):
    """The engine carried out or refused a request of this screen."""

    def __init__(self, dropped: RequestDropped, answer: RequestAnswer) -> None:
        super().__init__()
        self.dropped, self.answer = dropped, answer


class StopLookedUp(Message):
    """The facts were read that the user should know before stopping or killing this trial."""

    def __init__(self, detail: TrialDetail, checkpoint_utc: float | None, kill: bool) -> None:
        super().__init__()
        self.detail, self.checkpoint_utc, self.kill = detail, checkpoint_utc, kill


class ComparisonAsked(Message):
    """The user asked to compare these trials; differences are taken from the first."""

    def __init__(self, trials: tuple[int, ...]) -> None:
        super().__init__()
        self.trials = trials


class ComparisonRead(Message):
    """Trials were compared row by row."""

    def __init__(self, found: Comparison) -> None:
        super().__init__()
        self.found = found


class ExportAsked(Message):
    """The user asked to write the board of an experiment to a file."""

    def __init__(self, experiment: int, name: str) -> None:
        super().__init__()
        self.experiment, self.name = experiment, name


class BoardWritten(Message):
    """The board of an experiment was written to a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class MergeAsked(Message):
    """The user asked to merge a trial's adapter into its base."""

    def __init__(self, trial: int) -> None:
        super().__init__()
        self.trial = trial


class ChatAsked(Message):
    """The user asked to chat with these trials' adapters and their base."""

    def __init__(self, trials: tuple[int, ...]) -> None:
        super().__init__()
        self.trials = trials


class ImportanceAsked(Message):
    """The user asked which settings of this experiment influenced the ranking."""

    def __init__(self, experiment: int) -> None:
        super().__init__()
        self.experiment = experiment


class ImportanceRead(Message):
    """The importance of an experiment's settings was computed."""

    def __init__(self, report: ImportanceReport) -> None:
        super().__init__()
        self.report = report


class QuarantineAsked(Message):
    """The user asked to end the quarantine of a card that had failed."""

    def __init__(self, card: CardRow) -> None:
        super().__init__()
        self.card = card


class NeedsChanged(Message):
    """The visible screen needs other data than before."""


class TrialOpened(Message):
    """The user opened a trial."""

    def __init__(self, trial: int) -> None:
        super().__init__()
        self.trial = trial


class InputAsked(Message):
    """The user chose an action that needs typed input: clone, extend, add, move, max-parallel."""

    def __init__(self, verb: str, trial: int) -> None:
        super().__init__()
        self.verb, self.trial = verb, trial


class SendAsked(Message):
    """The user chose an action that is one request."""

    def __init__(self, verb: str, **args: Any) -> None:
        super().__init__()
        self.wish = Wish(verb, args)


class UndoAsked(Message):
    """The user asked to undo the last action that can be undone."""


class ExperimentAsked(Message):
    """The user asked to act on all trials of an experiment."""

    def __init__(self, experiment: int) -> None:
        super().__init__()
        self.experiment = experiment


class ActionRefused(Message):
    """The user asked for something that is impossible now; `why` says for what reason."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class ActAsked(Message):
    """The user asked to stop, kill, pause or resume one trial, or all marked ones."""

    def __init__(self, verb: str, trials: Sequence[int]) -> None:
        super().__init__()
        self.verb, self.trials = verb, tuple(trials)
