"""Frozen rows of a board: adapters, finalists, and the differences that the verdict found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.store.rows import Experiment

if TYPE_CHECKING:
    from workbench.verdict.types import Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference:
    """The difference of two scores on the same rows, in the score's unit.

    Own score minus the other's, so above 0 means a larger value, which is worse for a loss.
    """

    difference: float
    low: float
    high: float
    """Ends of the 95 % interval."""
    p: float
    """Two-sided p-value of "no difference"."""

    @property
    def significant(self) -> bool:
        """True where interval and p-value agree that the difference is not zero."""
        return self.p < 0.05 and not self.low <= 0 <= self.high


def score_difference(found: Difference | None) -> ScoreDifference | None:
    """Return the verdict's difference as rows hold it, which front ends read without numpy."""
    if found is None:
        return None
    return ScoreDifference(difference=found.difference, low=found.low, high=found.high, p=found.p)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRow:
    """One adapter's line on the board, or the base's.

    The fields from `score_low` to `optimism` are the verdict's: None where no results by row were
    kept, for which `score_note` gives the reason.
    """

    rank: int | None
    """1 is best; None for the base and for trials without a score."""
    trial: int
    number: int
    kind: str
    state: str
    score: float | None
    base_score: float | None
    gain: float | None
    """The gain over the base, in the score's own unit: above 0 is better."""
    scores: dict[str, float | None]
    settings: dict[str, Any]
    adapter: str | None
    """The adapter's folder; None where the trial left none."""
    adapter_bytes: int | None
    card: str | None
    attempts: int
    tokens_per_s: float | None
    peak_bytes: int | None
    predicted_bytes: int | None
    wall_s: float | None
    """Seconds that its attempts took together."""
    energy_wh: float | None
    """Watt-hours that its cards drew during its attempts; None where none was measured."""
    precision: str | None
    reason: str
    score_low: float | None = None
    score_high: float | None = None
    """Ends of the score's 95 % interval."""
    score_rows: int | None = None
    """Held-out rows that the score is an average of."""
    score_approximate: bool = False
    """True where the interval may be too narrow because there are few rows."""
    score_step: int | None = None
    """Optimizer steps after which the scored weights were saved; 0 for the base."""
    tied_for_first: bool | None = None
    """True where the trial cannot be told from the best one; None for the base."""
    vs_base: ScoreDifference | None = None
    vs_leader: ScoreDifference | None = None
    """None for the leader itself."""
    optimism: float | None = None
    """Amount by which the leader's own score is expected to be too good because it was chosen on
    the same rows: at least 0, in the score's unit. None for all other rows."""
    score_note: str = ""
    """The reason why it has no score, or a score without an interval; else empty."""
    test_score: float | None = None
    """Score on the test rows, which were used for no choice; None where it was not tested."""
    test_low: float | None = None
    test_high: float | None = None
    """Ends of the test score's 95 % interval."""
    test_rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistRow:
    """One finalist's line of the finals: settings that were trained again with other seeds.

    Its scores are those of trials with new seeds that finished; the finalist's own score is no part
    of them, because it was chosen by it. The fields from `mean` to `vs_leader` are None before one
    has finished, or where no results by row were kept.
    """

    rank: int | None
    """1 is the best mean; None without one."""
    trial: int
    """The finalist: the trial whose settings were trained again."""
    settings: dict[str, Any]
    seeds: list[int]
    """Seeds of the trials that are averaged."""
    trials: list[int]
    """Those trials, in the order of `seeds`."""
    scores: list[float]
    """Their scores, in the order of `seeds`."""
    asked: int
    """Trials that were asked for, with those that have not finished."""
    mean: float | None
    low: float | None
    high: float | None
    """Ends of the 95 % interval of the mean, which holds row and seed variance."""
    rows: int | None
    """Held-out rows that each score is an average of."""
    approximate: bool
    """True where the interval may be too narrow because there are few rows."""
    tied_for_first: bool | None
    """True where the finalist cannot be told from the best one."""
    vs_base: ScoreDifference | None
    vs_leader: ScoreDifference | None
    """None for the best finalist itself."""
    shipped: int | None
    """The trial whose adapter stands for the finalist: that of the median seed."""
    adapter: str | None
    """That adapter's folder."""
    notes: tuple[str, ...]
    """Sentences about seeds that failed, diverged, or have not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedBoard:
    """The board of one experiment with its verdict."""

    experiment: Experiment
    rows: list[BoardRow]
    """Trials that are tied for first, then the others, each best first; the base last."""
    verdict: str
    """The verdict in one sentence, or the reason why there is none."""
    notes: tuple[str, ...]
    """Sentences about what could not be compared, and why."""
    finals: tuple[FinalistRow, ...] = ()
    """The finalists, best first; empty where there were no finals."""

    @property
    def leader(self) -> BoardRow | None:
        """The row of the best score; None where no trial has one."""
        return next((row for row in self.rows if row.rank == 1), None)
