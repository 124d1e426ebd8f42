"""The values that the verdict takes and returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResults:
    """The results of one model, the base or an adapter, on every row of one evaluation set.

    All arrays have one element for each row, in the evaluation set's order. Two results may be
    compared row by row if and only if their `evaluation` is equal.
    """

    trial: int
    """Id of the trial that was scored."""
    evaluation: str
    """Digest of the evaluation set: its rows, and how they are asked and judged."""
    tokens: str
    """Digest of the rows as they were tokenised. Losses are comparable only where it is equal."""
    step: int
    """Optimizer step of the weights that were scored; 0 for the base."""
    targets: NDArray[np.int64]
    """Target tokens of each row; 0 for a row that carries no loss."""
    sums: dict[str, Floats] = field(default_factory=dict)
    """Sums over the target tokens of each row, by score: `loss` in nats, and `token_accuracy` as
    the number of target tokens that the model ranked first."""
    means: dict[str, Floats] = field(default_factory=dict)
    """Scores of generated answers for each row, by score, such as `exact_match`: 0 to 1, NaN where
    the row cannot be scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float
    rows: int
    """Rows that the score is an average of."""
    approximate: bool = False
    """True where too few rows make the interval approximate: it may be too narrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The paired difference of two scores on the same rows: one's score minus the other's."""

    difference: float
    low: float
    high: float
    """Ends of the 95 % interval, in the score's unit."""
    p: float
    """Two-sided p-value of "no difference"."""

    @property
    def significant(self) -> bool:
        """True where interval and p-value agree that the difference is not zero."""
        return self.p < 0.05 and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialVerdict:
    """The claims about one trial of a board."""

    trial: int
    score: Interval
    tied_for_first: bool
    """True where the trial cannot be told from the best (Hsu's comparisons with the best)."""
    vs_base: Difference | None = None
    vs_leader: Difference | None = None
    """None for the leader itself, and where the two were not scored on the same rows."""
    better_than: frozenset[int] = frozenset()
    """Trials that it beats, by Holm's correction over all pairs of the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardVerdict:
    """The claims about a whole board."""

    score: str
    """Name of the score, for example `exact_match` or `loss`."""
    higher_is_better: bool
    leader: int | None
    """The trial with the best score; None where nothing was scored."""
    trials: dict[int, TrialVerdict]
    """By trial, without the base."""
    base: Interval | None = None
    optimism: float | None = None
    """Expected amount by which the leader's own score is too good because it was chosen on the
    same rows: at least 0, in the score's unit. None where nothing was chosen."""
    seeds: int = 1
    """Seeds that each score is an average of; 1: the intervals hold row noise only."""
    notes: tuple[str, ...] = ()
    """Sentences about what could not be compared, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalsVerdict:
    """The claims about finals: finalists that were trained again with several seeds."""

    board: BoardVerdict
    """The claims by finalist: `trials` has the id of the trial whose settings were trained again.
    Scores are means over the new seeds; intervals hold row and seed variance."""
    shipped: int | None = None
    """The trial whose adapter ships: the median seed of the best finalist. None without scores."""
    medians: dict[int, int] = field(default_factory=dict)
    """By finalist, the trial of its median seed; of an even number the one with the lower score."""
    seed_scores: dict[int, dict[int, float]] = field(default_factory=dict)
    """By finalist, the score of each trial with a new seed."""
