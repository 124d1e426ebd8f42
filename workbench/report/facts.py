"""Everything that a report shows, gathered once from the service."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.service import Service
from workbench.store.board_rows import JudgedBoard
from workbench.store.rows import AnswerSample, Point

CURVE_POINTS = 160
"""Points of one curve: more cannot be told apart in a plot of 640 pixels."""
SAMPLED_TRIALS = 2
"""Best trials whose sample answers are shown beside those of the base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """The content of one report."""

    board: JudgedBoard
    """The judged board with its verdict, its notes and its finals."""
    curve_name: str
    """The metric of the curves: eval_loss, or loss where nothing was evaluated during training."""
    curves: dict[int, list[Point]]
    """The curve of each trial that has one."""
    samples: dict[int, list[AnswerSample]]
    """Sample answers of the best trials and of the base, by trial."""
    made_utc: float
    """UTC seconds at which the facts were read."""


def gather_facts(service: Service, key: int | str) -> ReportFacts:
    """Return the facts of the experiment with this id or name.

    Raises NotThere where there is no such experiment. Takes a few milliseconds a trial.
    """
    board = service.judged_board(key)
    rows = board.rows
    name, curves = _read_curves(service, [row.trial for row in rows if row.kind == "tune"])
    shown = [row.trial for row in rows if row.rank is not None][:SAMPLED_TRIALS]
    shown += [row.trial for row in rows if row.kind == "base"]
    return ReportFacts(
        board=board,
        curve_name=name,
        curves=curves,
        samples={trial: found for trial in shown if (found := service.trial(trial).samples)},
        made_utc=service.clock(),
    )


def _read_curves(service: Service, trials: list[int]) -> tuple[str, dict[int, list[Point]]]:
    """Return the metric that was read and its points by trial.

    A held-out loss of one point is the final score and no curve: the training loss is read then.
    """
    for name in ("eval_loss", "loss"):
        curves = {trial: service.series(trial, name, CURVE_POINTS) for trial in trials}
        if any(len(points) > 1 for points in curves.values()):
            return name, {trial: points for trial, points in curves.items() if points}
    return "loss", {}
