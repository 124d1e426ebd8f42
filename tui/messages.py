"""What happened, as frozen facts. The poller posts some, widgets and screens the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from textual.message import Message

from workbench.service import (
    Answer,
    BoardRow,
    CardRow,
    EventRow,
    Experiment,
    ImportanceReport,
    Point,
    Snapshot,
    TrialDetail,
)

ALL_EVENTS = -1
"""In place of a trial's id: the events of everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What the visible screen shows beside the snapshot."""

    series: tuple[tuple[int, str], ...] = ()
    """Trial and metric of each curve."""
    detail: int | None = None
    board: int | None = None
    """An experiment."""
    queue: bool = False
    """In which order trials will be placed."""
    events_of: int | None = None
    events: int = 60
    """The newest so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Everything a screen paints, read at one moment."""

    snapshot: Snapshot
    wants: Wants
    at_utc: float
    series: dict[tuple[int, str], tuple[Point, ...]] = field(default_factory=dict)
    detail: TrialDetail | None = None
    board: tuple[Experiment, tuple[BoardRow, ...]] | None = None
    queue: tuple[int, ...] = ()
    events: tuple[EventRow, ...] = ()


class Seen(Message):
    """The store was read and something had changed."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self.picture = picture


class ReadFailed(Message):
    """The store could not be read; it is tried again."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__()
        self.what, self.hint = what, hint


class AskFailed(Message):
    """Something a person asked for could not be done."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__()
        self.what, self.hint = what, hint


class RequestDropped(Message):
    """A request lies in the engine's folder."""

    def __init__(self, request: str, verb: str, trial: int | None = None, undo: str = "") -> None:
        super().__init__()
        self.request, self.verb, self.trial, self.undo = request, verb, trial, undo


class RequestAnswered(Message):
    def __init__(self, dropped: RequestDropped, answer: Answer) -> None:
        super().__init__()
        self.dropped, self.answer = dropped, answer


class StopLookedUp(Message):
    """What stopping or killing this trial would mean, read a moment ago."""

    def __init__(self, detail: TrialDetail, checkpoint_utc: float | None, kill: bool) -> None:
        super().__init__()
        self.detail, self.checkpoint_utc, self.kill = detail, checkpoint_utc, kill


class MatteredAsked(Message):
    """A person wants to know which settings of this experiment mattered."""

    def __init__(self, experiment: int) -> None:
        super().__init__()
        self.experiment = experiment


class MatteredTold(Message):
    def __init__(self, report: ImportanceReport) -> None:
        super().__init__()
        self.report = report


class QuarantineAsked(Message):
    """A person wants this card, which failed, to take trials again."""

    def __init__(self, card: CardRow) -> None:
        super().__init__()
        self.card = card


class WantsChanged(Message):
    """A screen shows something else now."""


class TrialOpened(Message):
    def __init__(self, trial: int) -> None:
        super().__init__()
        self.trial = trial


class WordsAsked(Message):
    """A person wants to clone, extend, move … a trial, and will be asked how."""

    def __init__(self, verb: str, trial: int) -> None:
        super().__init__()
        self.verb, self.trial = verb, trial


class SendAsked(Message):
    """A person wants this request sent; `undo` says how it is taken back."""

    def __init__(self, verb: str, undo: str = "", **args: Any) -> None:
        super().__init__()
        self.verb, self.undo, self.args = verb, undo, args


class ActAsked(Message):
    """A person asked to stop, kill, pause or resume a trial."""

    def __init__(self, verb: str, trial: int) -> None:
        super().__init__()
        self.verb, self.trial = verb, trial
