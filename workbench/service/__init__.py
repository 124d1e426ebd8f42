"""Everything that a front end may ask: views of the store, requests to the engine, its start.

Nothing here talks to the engine or to Ray: the store is read, and request files are written.
`snapshots` has the values, `reading` the views, `requesting` the requests, `engine_control` the
engine's start and end; a `Service` has all of them. Front ends import from here alone, and the
public Python API (`workbench.api`) is a thin layer over it.
"""

from __future__ import annotations

from workbench.engine_status import EngineState, EngineStatus
from workbench.judging.comparison import Comparison
from workbench.judging.judged_rows import Baseline
from workbench.machine.history.minutes import CardMinute
from workbench.service.engine_control import EngineControl
from workbench.service.requesting import ANSWER_S
from workbench.service.snapshots import CardDetail, ImportanceReport, Snapshot, TrialDetail
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.store.rows import (
    AnswerSample,
    AttemptRow,
    CardRow,
    EventRow,
    Experiment,
    MoveRow,
    Point,
    RequestAnswer,
    TrialRow,
)

__all__ = [
    "ANSWER_S",
    "AnswerSample",
    "AttemptRow",
    "Baseline",
    "BoardRow",
    "CardDetail",
    "CardMinute",
    "CardRow",
    "Comparison",
    "EngineState",
    "EngineStatus",
    "EventRow",
    "Experiment",
    "ImportanceReport",
    "JudgedBoard",
    "MoveRow",
    "Point",
    "RequestAnswer",
    "Service",
    "Snapshot",
    "TrialDetail",
    "TrialRow",
]


class Service(EngineControl):
    """One person's view of one home. Not thread-safe: each thread needs one of its own."""
