"""The rows of several results as matrices, so that all of them are judged at once."""

# K results, N rows.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from workbench.verdict.types import Floats, RowResults

Bools = NDArray[np.bool_]


PERPLEXITY = "perplexity"
"""The exponential of the loss; everything about it is derived from the loss."""


TOKEN_ACCURACY = "token_accuracy"
"""The share of target tokens that the model ranks first: a ratio that cannot leave 0 to 1."""


class ScoreKind(StrEnum):
    """The kind of a score, which decides the statistical method."""

    RATIO = "ratio"
    """A sum over rows divided by the sum of their target tokens, such as a loss."""
    ANSWERS = "answers"
    """A share of rows with a right answer: each row has 0 or 1."""
    GRADED = "graded"
    """A mean over rows of any numbers, such as F1 or ROUGE-L."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMatrix:
    """The values of several results on the same rows, all of them scored."""

    values_KN: Floats
    weights_N: Floats
    """Target tokens of each row for a ratio; 1 for a mean over rows."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return len(self.weights_N)

    @property
    def scores_K(self) -> Floats:
        """Return the score of each result: the sum of its values over the sum of the weights."""
        scores: Floats = self.values_KN.sum(axis=1) / self.weights_N.sum()
        return scores


def score_source(score: str) -> str:
    """Return the name under which the rows hold a score's values: `loss` for the perplexity."""
    return "loss" if score == PERPLEXITY else score


def row_values(result: RowResults, score: str) -> Floats:
    """Return one value for each row, NaN where the row has no such score.

    For `loss` and `token_accuracy` the value is the row's sum over its target tokens.
    """
    if score in result.sums:
        return np.where(result.targets > 0, result.sums[score], np.nan)
    return result.means.get(score, np.full(len(result.targets), np.nan))


def row_weights(result: RowResults, score: str) -> Floats:
    """Return the weight of each row: its target tokens for a sum, else 1."""
    if score in result.sums:
        return result.targets.astype(np.float64)
    return np.ones(len(result.targets))


def scored_rows(result: RowResults, score: str) -> Bools:
    """Return True for each row that counts in the score.

    A row that should have a loss and has NaN or infinity counts: the score is then no number.
    """
    if score in result.sums:
        return result.targets > 0
    return ~np.isnan(row_values(result, score))


def why_not_compared(one: RowResults, other: RowResults, score: str) -> str:
    """Return why two results may not be compared row by row; empty if they may.

    `other` is the result that everybody is compared with, such as the leader's.
    """
    source = score_source(score)
    if one.evaluation != other.evaluation or len(one.targets) != len(other.targets):
        return "scored on other rows"
    if source in other.sums and (
        one.tokens != other.tokens or not np.array_equal(one.targets, other.targets)
    ):
        return "its rows were cut into other tokens"
    wanted = scored_rows(other, source)
    if 2 * int((scored_rows(one, source) & wanted).sum()) < int(wanted.sum()):
        return "scored on fewer than half of the rows"
    return ""


def group_alike(results: Sequence[RowResults], score: str) -> list[list[RowResults]]:
    """Return the results in groups whose scores count the same rows with the same weights."""
    groups: dict[bytes, list[RowResults]] = {}
    for one in results:
        weights_N = np.where(scored_rows(one, score), row_weights(one, score), 0.0)
        groups.setdefault(weights_N.tobytes(), []).append(one)
    return list(groups.values())


def own_matrix(result: RowResults, score: str) -> RowMatrix:
    """Return the matrix of one result with the rows that count in its score."""
    return common_matrix([result], score)


def common_matrix(results: Sequence[RowResults], score: str) -> RowMatrix:
    """Return the matrix of results of one evaluation with the rows that count in all of them."""
    counted = np.logical_and.reduce([scored_rows(result, score) for result in results])
    return RowMatrix(
        values_KN=np.stack([row_values(result, score)[counted] for result in results]),
        weights_N=row_weights(results[0], score)[counted],
    )


def find_kind(results: Sequence[RowResults], score: str) -> ScoreKind:
    """Return the kind of a score from where it stands and from its values."""
    if any(score in result.sums for result in results):
        return ScoreKind.RATIO
    values = np.concatenate([row_values(result, score) for result in results] or [np.empty(0)])
    values = values[~np.isnan(values)]
    return ScoreKind.ANSWERS if bool(np.isin(values, (0.0, 1.0)).all()) else ScoreKind.GRADED
