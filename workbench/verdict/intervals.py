"""95 % intervals of single scores."""

# K results, N rows, B resamples.

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri, stdtrit

from workbench.verdict.resamples import RESAMPLES, resample_counts
from workbench.verdict.rows import RowMatrix, ScoreKind
from workbench.verdict.types import Floats, Interval

CONFIDENCE = 0.95
APPROXIMATE_BELOW = 256
"""Rows below which the interval of a heavy-tailed mean may be too narrow (docs/verdict.md)."""
BOOTSTRAP_FROM = 10
"""Rows from which resamples are varied enough for the bootstrap-t; below, the t interval."""

_TAIL = (1 - CONFIDENCE) / 2
_Z = float(ndtri(1 - _TAIL))


def score_intervals(matrix: RowMatrix, kind: ScoreKind, *, seed: int = 0) -> list[Interval]:
    """Return each result's score with its 95 % interval.

    A share of right answers gets Wilson's interval, a ratio the bootstrap-t, graded answers the t
    interval. Ends are NaN for a ratio or graded answers of a single row.
    """
    rows, scores = matrix.rows, matrix.scores_K.tolist()
    few = kind is not ScoreKind.ANSWERS and rows < APPROXIMATE_BELOW
    if kind is ScoreKind.RATIO:
        lows_K, highs_K = bootstrap_t(matrix.values_KN, matrix.weights_N, seed=seed)
        ends = list(zip(lows_K.tolist(), highs_K.tolist(), strict=True))
    elif kind is ScoreKind.ANSWERS:
        ends = [wilson_interval(score * rows, rows) for score in scores]
    else:
        ends = [graded_interval(values_N) for values_N in matrix.values_KN]
    return [
        Interval(value=score, low=low, high=high, rows=rows, approximate=few)
        for score, (low, high) in zip(scores, ends, strict=True)
    ]


def wilson_interval(right: float, rows: float, z: float = _Z) -> tuple[float, float]:
    """Return the score interval of a share: `right` of `rows` answers are right.

    Never of width zero and never outside 0 to 1. `z` is the normal quantile of the confidence, or
    a larger one of Student's t. Wilson 1927, J. Amer. Statist. Assoc. 22:209.
    """
    share = right / rows
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows**2))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share_interval(
    share: float, variance: float, rows: int, quantile: float
) -> tuple[float, float]:
    """Return Wilson's interval of a share whose variance is not that of independent answers.

    The rows become those that would give this variance, but never more than there are: Korn &
    Graubard 1998, Survey Methodology 24:193.
    """
    spread = share * (1 - share)
    effective = min(spread / variance, rows) if variance > 0 and spread > 0 else rows
    return wilson_interval(share * effective, effective, quantile)


def graded_interval(values_N: Floats) -> tuple[float, float]:
    """Return the t interval of a mean; kept within 0 to 1 where all values are.

    Where all values are equal the t interval has no width; within 0 to 1, Wilson's is then taken.
    """
    rows = len(values_N)
    if rows < 2:
        return math.nan, math.nan
    mean, error = float(values_N.mean()), float(values_N.std(ddof=1)) / math.sqrt(rows)
    half = float(stdtrit(rows - 1, 1 - _TAIL)) * error
    if not ((values_N >= 0) & (values_N <= 1)).all():
        return mean - half, mean + half
    if error == 0:
        return wilson_interval(mean * rows, rows)
    return max(mean - half, 0.0), min(mean + half, 1.0)


def ratio_errors(values_KN: Floats, weights_N: Floats) -> tuple[Floats, Floats]:
    """Return the ratios sum(values) / sum(weights) and their standard errors, one for each result.

    The error is that of the linearised ratio: Cochran 1977, "Sampling Techniques", §2.11.
    """
    total = weights_N.sum(axis=-1)
    ratios_K = values_KN.sum(axis=-1) / total
    residuals_KN = values_KN - ratios_K[..., None] * weights_N
    rows = values_KN.shape[-1]
    squares_K = (residuals_KN**2).sum(axis=-1) * rows / max(rows - 1, 1)
    return ratios_K, np.sqrt(squares_K) / total


def bootstrap_t(
    values_KN: Floats, weights_N: Floats, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[Floats, Floats]:
    """Return the lower and upper ends of K ratios sum(values) / sum(weights), at least 0.

    Rows are resampled, and each resample's distance from the ratio is divided by its own standard
    error: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", §12.5. `weights_N` may also
    have the shape (K, N). Below 10 rows this is the t interval; NaN for a single row.
    """
    rows = values_KN.shape[-1]
    ratios_K, errors_K = ratio_errors(values_KN, weights_N)
    if rows < 2:
        return np.full_like(ratios_K, np.nan), np.full_like(ratios_K, np.nan)
    if rows < BOOTSTRAP_FROM:
        half_K = stdtrit(rows - 1, 1 - _TAIL) * errors_K
        return np.maximum(ratios_K - half_K, 0.0), ratios_K + half_K
    blocks = resample_counts(rows, seed=seed, resamples=resamples)
    t_BK = np.concatenate([_resampled_t(block, values_KN, weights_N, ratios_K) for block in blocks])
    below_K, above_K = np.quantile(t_BK, (_TAIL, 1 - _TAIL), axis=0)
    return np.maximum(ratios_K - above_K * errors_K, 0.0), ratios_K - below_K * errors_K


def _resampled_t(
    counts_BN: Floats, values_KN: Floats, weights_N: Floats, ratios_K: Floats
) -> Floats:
    """Return (B, K): the studentised distance of each resample's ratio from the ratio."""
    rows = values_KN.shape[-1]
    weights_KN = np.atleast_2d(weights_N)
    # Residuals about the ratio keep the sums small, so that their differences lose no digits.
    residuals_KN = values_KN - ratios_K[:, None] * weights_KN
    total_BK = counts_BN @ weights_KN.T
    shift_BK = (counts_BN @ residuals_KN.T) / total_BK
    squares_BK = (
        counts_BN @ (residuals_KN**2).T
        - 2 * shift_BK * (counts_BN @ (residuals_KN * weights_KN).T)
        + shift_BK**2 * (counts_BN @ (weights_KN**2).T)
    )
    errors_BK = np.sqrt(np.maximum(squares_BK, 0.0) * rows / (rows - 1)) / total_BK
    # A resample that holds one row over and over has no error, and says nothing about the shape.
    safe_BK = np.where(errors_BK > 0, errors_BK, np.inf)
    return np.asarray(shift_BK / safe_BK)
