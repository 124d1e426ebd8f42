"""Paired differences between every two of K results on the same rows, all of them at once."""

# K results, N rows, B sign flips.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, ndtri, stdtr, stdtrit

from workbench.verdict.intervals import CONFIDENCE
from workbench.verdict.resamples import ALL_FLIPS_UP_TO, sign_flips
from workbench.verdict.rows import RowMatrix, ScoreKind
from workbench.verdict.types import Difference, Floats

_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """The differences between every two results: row i, column j is result i minus result j."""

    differences_KK: Floats
    lows_KK: Floats
    highs_KK: Floats
    p_KK: Floats
    """Two-sided p-values; 1 on the diagonal."""

    def difference(self, one: int, other: int) -> Difference:
        """Return the difference of two results by their places in the matrix."""
        return Difference(
            difference=float(self.differences_KK[one, other]),
            low=float(self.lows_KK[one, other]),
            high=float(self.highs_KK[one, other]),
            p=float(self.p_KK[one, other]),
        )

    def first(self, results: int) -> PairTable:
        """Return the table of the first `results` results alone."""
        kept = slice(0, results)
        return PairTable(
            differences_KK=self.differences_KK[kept, kept],
            lows_KK=self.lows_KK[kept, kept],
            highs_KK=self.highs_KK[kept, kept],
            p_KK=self.p_KK[kept, kept],
        )

    @property
    def significant_KK(self) -> NDArray[np.bool_]:
        """Return True where interval and p-value agree that the difference is not zero."""
        excludes_zero = (self.lows_KK > 0) | (self.highs_KK < 0)
        return np.asarray(excludes_zero & (self.p_KK < 1 - CONFIDENCE))


def compare_pairs(matrix: RowMatrix, kind: ScoreKind, *, seed: int = 0) -> PairTable:
    """Return the paired differences between every two results of a matrix.

    Right answers: Tango's interval and the mid-p McNemar test. Ratios: the linearised t interval
    and sign flips. Graded answers: the paired t interval and test.
    """
    if kind is ScoreKind.ANSWERS:
        return compare_answers(matrix.values_KN)
    scores_K = matrix.scores_K
    residuals_KN = matrix.values_KN - scores_K[:, None] * matrix.weights_N
    residuals_KN = residuals_KN / matrix.weights_N.sum()
    table = compare_linearised(scores_K, residuals_KN)
    if kind is ScoreKind.GRADED:
        return table
    return with_flipped_p(table, matrix, seed=seed)


def compare_linearised(scores_K: Floats, residuals_KN: Floats) -> PairTable:
    """Return t intervals and p-values from each row's contribution to each score.

    `residuals_KN` are the rows' linearised contributions, in the score's unit; each result's sum
    to zero. A single row shows nothing: endless intervals and p-values of 1.
    """
    results, rows = residuals_KN.shape
    differences_KK = scores_K[:, None] - scores_K[None, :]
    # What all results have in common cancels in every difference: taking it out saves digits.
    own_KN = residuals_KN - residuals_KN.mean(axis=0)
    products_KK = own_KN @ own_KN.T
    squares_K = np.diag(products_KK)
    squares_KK = np.maximum(squares_K[:, None] + squares_K[None, :] - 2 * products_KK, 0.0)
    # Rounding leaves crumbs where two results are equal in every row.
    squares_KK[squares_KK < 1e-14 * (squares_K[:, None] + squares_K[None, :])] = 0.0
    if rows < 2:
        errors_KK = np.full((results, results), np.inf)
    else:
        errors_KK = np.sqrt(squares_KK * rows / (rows - 1))
    degrees = max(rows - 1, 1)
    half_KK = stdtrit(degrees, 1 - _TAIL) * errors_KK
    p_KK = t_p_values(differences_KK, errors_KK, degrees)
    # Differences that are equal in every row have no error; flips of N signs bound the p-value.
    p_KK = np.maximum(p_KK, 2.0 ** (1 - min(rows, 1_000)))
    np.fill_diagonal(p_KK, 1.0)
    return PairTable(
        differences_KK=differences_KK,
        lows_KK=differences_KK - half_KK,
        highs_KK=differences_KK + half_KK,
        p_KK=p_KK,
    )


def t_p_values(differences: Floats, errors: Floats, degrees: float | Floats) -> Floats:
    """Return two-sided p-values of Student's t; 1 where the difference is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(differences == 0, 0.0, np.abs(differences) / errors)
    return np.asarray(2.0 * stdtr(degrees, -t))


def with_flipped_p(table: PairTable, matrix: RowMatrix, *, seed: int) -> PairTable:
    """Return the table with p-values of sign flips in place of those of Student's t.

    Without a difference each row's difference is as likely with the other sign. Random flips
    cannot show a p-value below 1 / (flips + 1); below it the smaller value of Student's t stays,
    because corrections for many pairs need it.
    """
    common_N = matrix.values_KN.mean(axis=0)
    flipped_KK, flips = _count_extreme(matrix.values_KN - common_N, seed=seed)
    if matrix.rows <= ALL_FLIPS_UP_TO:
        p_KK = flipped_KK / flips
    else:
        p_KK = (flipped_KK + 1) / (flips + 1)
        p_KK = np.where(flipped_KK == 0, np.minimum(p_KK, table.p_KK), p_KK)
    np.fill_diagonal(p_KK, 1.0)
    return PairTable(
        differences_KK=table.differences_KK,
        lows_KK=table.lows_KK,
        highs_KK=table.highs_KK,
        p_KK=p_KK,
    )


def _count_extreme(values_KN: Floats, *, seed: int) -> tuple[Floats, int]:
    """Return how many flips give a sum at least as far from zero as the observed, and all flips.

    A flipped sum of differences is the difference of two flipped sums, so K sums serve all pairs.
    """
    results, rows = values_KN.shape
    # Contiguous by result, so that two results' sums stay in the processor's cache.
    sums_KB = np.concatenate([values_KN @ block.T for block in sign_flips(rows, seed=seed)], axis=1)
    observed_K = values_KN.sum(axis=1)
    slack = 1e-9 * np.abs(values_KN).sum(axis=1).max(initial=0.0)
    counts_KK = np.zeros((results, results))
    for one in range(results - 1):
        for other in range(one + 1, results):
            limit = abs(observed_K[one] - observed_K[other]) - slack
            distances_B = np.abs(sums_KB[one] - sums_KB[other])
            counts_KK[one, other] = np.count_nonzero(distances_B >= limit)
    return counts_KK + counts_KK.T, sums_KB.shape[1]


def compare_answers(right_KN: Floats) -> PairTable:
    """Return Tango's intervals and mid-p McNemar p-values between every two of K results.

    `right_KN` is 1 for a right and 0 for a wrong answer.
    """
    rows = right_KN.shape[1]
    gained_KK = np.round(right_KN @ (1 - right_KN).T)
    lost_KK = gained_KK.T
    lows_KK, highs_KK = tango_interval(gained_KK, lost_KK, rows)
    return PairTable(
        differences_KK=(gained_KK - lost_KK) / rows,
        lows_KK=lows_KK,
        highs_KK=highs_KK,
        p_KK=mid_p_mcnemar(gained_KK, lost_KK),
    )


def mid_p_mcnemar(gained: Floats, lost: Floats) -> Floats:
    """Return two-sided mid-p values of McNemar's test; 1 where no row disagrees.

    `gained` rows only the one result answers rightly, `lost` rows only the other. Fagerland,
    Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91.
    """
    fewer, both = np.minimum(gained, lost), gained + lost
    log_half = -both * np.log(2.0)
    point = np.exp(gammaln(both + 1) - gammaln(fewer + 1) - gammaln(both - fewer + 1) + log_half)
    up_to = bdtr(fewer, both.astype(np.int64), 0.5)
    return np.asarray(np.where(gained == lost, 1.0, np.minimum(2 * up_to - point, 1.0)))


def tango_interval(gained: Floats, lost: Floats, rows: int) -> tuple[Floats, Floats]:
    """Return the ends of the score interval of paired shares' difference, (gained - lost) / rows.

    Tango 1998, Statist. Med. 17:891. Equal pairs of counts are solved once; the ends are found by
    bisection, since the statistic falls as the difference asked for rises.
    """
    pairs, places = np.unique(np.stack([gained.ravel(), lost.ravel()]), axis=1, return_inverse=True)
    z = float(ndtri(1 - _TAIL))
    low, high = (_solve_tango(pairs[0], pairs[1], rows, limit) for limit in (z, -z))
    places = places.ravel()
    return low[places].reshape(gained.shape), high[places].reshape(gained.shape)


def _solve_tango(gained: Floats, lost: Floats, rows: int, limit: float) -> Floats:
    """Return the difference at which Tango's statistic equals `limit`, to 1e-12."""
    left, right = np.full(gained.shape, -1.0), np.full(gained.shape, 1.0)
    for _ in range(42):
        middle = (left + right) / 2
        above = _tango_statistic(gained, lost, rows, middle) > limit
        left, right = np.where(above, middle, left), np.where(above, right, middle)
    return np.asarray((left + right) / 2)


def _tango_statistic(gained: Floats, lost: Floats, rows: int, difference: Floats) -> Floats:
    """Return (observed - asked difference) / its standard error if the asked difference is true."""
    # The restricted estimate of the share of lost rows is a root of A q² + B q + C: Tango, eq. 8.
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (np.sqrt(np.maximum(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    variance = rows * (2 * share + difference * (1 - difference))
    distance = gained - lost - rows * difference
    # Without variance the asked difference is impossible or exact: infinitely far, or no distance.
    return np.asarray(distance / np.sqrt(np.maximum(variance, 1e-300)))
