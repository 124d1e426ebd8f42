"""Paired differences between every two of K results on the same rows, all of them at once."""

# K results, N rows, B sign flips.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, ndtri, stdtr, stdtrit

from workbench.verdict.intervals import CONFIDENCE
from workbench.verdict.resamples import ALL_FLIPS_UP_TO, sign_flips
from workbench.verdict.rows import RowMatrix, ScoreKind
from workbench.verdict.types import Difference, Floats

Places = NDArray[np.intp]

_TAIL = (1 - CONFIDENCE) / 2
_Z = float(ndtri(1 - _TAIL))
EXACT_ABOVE = 0.5
"""Share of disagreeing rows above which two results' answers are tested exactly, not by mid-p."""
_ENOUGH_EXTREME = 100
"""Extreme flips after which a p-value is known to 10 %, and far from any claim."""


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

    def within_shares(self) -> PairTable:
        """Return the table with ends from -1 to 1, which differences of shares cannot leave."""
        lows_KK, highs_KK = np.clip(self.lows_KK, -1.0, 1.0), np.clip(self.highs_KK, -1.0, 1.0)
        return replace(self, lows_KK=lows_KK, highs_KK=highs_KK)

    @property
    def significant_KK(self) -> NDArray[np.bool_]:
        """Return True where interval and p-value agree that the difference is not zero."""
        excludes_zero = (self.lows_KK > 0) | (self.highs_KK < 0)
        return np.asarray(excludes_zero & (self.p_KK < 1 - CONFIDENCE))


def compare_pairs(matrix: RowMatrix, kind: ScoreKind, *, seed: int = 0) -> PairTable:
    """Return the paired differences between every two results of a matrix.

    Right answers: Tango's interval and McNemar's test (`answer_p_values`). Ratios: the linearised
    t interval and sign flips. Graded answers: the paired t interval and test.
    """
    if kind is ScoreKind.ANSWERS:
        return compare_answers(matrix.values_KN)
    table = compare_linearised(matrix.scores_K, linearised_residuals(matrix))
    if kind is ScoreKind.GRADED:
        return table.within_shares() if are_shares(matrix.values_KN) else table
    return with_flipped_p(table, matrix, seed=seed)


def are_shares(values_KN: Floats) -> bool:
    """Return True if all values lie from 0 to 1, such as answers, F1 and ROUGE-L."""
    return bool(((values_KN >= 0) & (values_KN <= 1)).all())


def linearised_residuals(matrix: RowMatrix) -> Floats:
    """Return (K, N): each row's contribution to the error of each score; rows sum to zero."""
    residuals_KN = matrix.values_KN - matrix.scores_K[:, None] * matrix.weights_N
    return np.asarray(residuals_KN / matrix.weights_N.sum())


def loss_spreads(matrix: RowMatrix) -> Floats:
    """Return (K, K): the standard deviation of the paired difference of one row, by its weight.

    As a share of the first loss; over the root of the rows it is the standard error of the
    difference. Needs at least two rows.
    """
    variances_KK = difference_variances(linearised_residuals(matrix))
    return np.asarray(np.sqrt(variances_KK * matrix.rows) / matrix.scores_K[:, None])


def compare_linearised(scores_K: Floats, residuals_KN: Floats) -> PairTable:
    """Return t intervals and p-values from each row's contribution to each score.

    `residuals_KN` are the rows' linearised contributions, in the score's unit; each result's sum
    to zero. A single row shows nothing: endless intervals and p-values of 1.
    """
    rows = residuals_KN.shape[1]
    variances_KK = difference_variances(residuals_KN)
    table = t_table(scores_K, variances_KK, np.full_like(variances_KK, max(rows - 1, 1)))
    # Differences that are equal in every row have no error; flips of N signs bound the p-value.
    return replace(table, p_KK=np.maximum(table.p_KK, 2.0 ** (1 - min(rows, 1_000))))


def difference_variances(residuals_KN: Floats) -> Floats:
    """Return (K, K): the variance over rows of each difference of scores; infinite for one row."""
    rows = residuals_KN.shape[1]
    if rows < 2:
        return np.full((len(residuals_KN), len(residuals_KN)), np.inf)
    # What all results have in common cancels in every difference: taking it out saves digits.
    own_KN = residuals_KN - residuals_KN.mean(axis=0)
    products_KK = own_KN @ own_KN.T
    squares_K = np.diag(products_KK)
    sums_KK = squares_K[:, None] + squares_K[None, :]
    squares_KK = sums_KK - 2 * products_KK
    # Rounding leaves crumbs where two results are equal in every row.
    squares_KK[squares_KK < 1e-14 * sums_KK] = 0.0
    return np.asarray(squares_KK * rows / (rows - 1))


def t_table(scores_K: Floats, variances_KK: Floats, degrees_KK: Floats) -> PairTable:
    """Return differences with t intervals and p-values from their variances and degrees."""
    differences_KK = scores_K[:, None] - scores_K[None, :]
    errors_KK = np.sqrt(variances_KK)
    half_KK = stdtrit(degrees_KK, 1 - _TAIL) * errors_KK
    with np.errstate(divide="ignore", invalid="ignore"):
        t_KK = np.where(differences_KK == 0, 0.0, np.abs(differences_KK) / errors_KK)
    p_KK = 2.0 * stdtr(degrees_KK, -t_KK)
    np.fill_diagonal(p_KK, 1.0)
    return PairTable(
        differences_KK=differences_KK,
        lows_KK=differences_KK - half_KK,
        highs_KK=differences_KK + half_KK,
        p_KK=p_KK,
    )


def with_flipped_p(table: PairTable, matrix: RowMatrix, *, seed: int) -> PairTable:
    """Return the table with p-values of sign flips in place of those of Student's t.

    Without a difference each row's difference is as likely with the other sign. All flips are
    taken up to 16 rows. Above, they are random: a pair with 100 extreme ones among the first 999 is
    done (sequential p-values: Besag & Clifford 1991, Biometrika 78:301). Random flips cannot show a
    p-value below 1 / (flips + 1); there the smaller value of Student's t stays, because the
    corrections for many pairs need it.
    """
    values_KN = matrix.values_KN - matrix.values_KN.mean(axis=0)
    ones, others = np.triu_indices(len(values_KN), 1)
    every = sign_flips(matrix.rows, seed=seed)
    if matrix.rows <= ALL_FLIPS_UP_TO:
        extreme, flips = _count_extreme(values_KN, every, ones, others)
        p = extreme / flips
    else:
        extreme, flips = _count_extreme(values_KN, [next(every)], ones, others)
        p = (extreme + 1) / (flips + 1)
        rare = extreme < _ENOUGH_EXTREME
        more, more_flips = _count_extreme(values_KN, every, ones[rare], others[rare])
        p[rare] = (extreme[rare] + more + 1) / (flips + more_flips + 1)
        unseen = np.flatnonzero(rare)[extreme[rare] + more == 0]
        p[unseen] = np.minimum(p[unseen], table.p_KK[ones[unseen], others[unseen]])
    p_KK = np.ones_like(table.p_KK)
    p_KK[ones, others] = p_KK[others, ones] = p
    return replace(table, p_KK=p_KK)


def _count_extreme(
    values_KN: Floats, blocks: Iterable[Floats], ones: Places, others: Places
) -> tuple[Floats, int]:
    """Return for each pair how many flips give a sum at least as extreme, and all flips.

    A flipped sum of differences is the difference of two flipped sums, so K sums serve all pairs.
    """
    observed = np.abs(values_KN[ones].sum(axis=1) - values_KN[others].sum(axis=1))
    slack = 1e-9 * np.abs(values_KN).sum(axis=1).max(initial=0.0)
    extreme, flips = np.zeros(len(ones)), 0
    if not len(ones):
        return extreme, flips
    for block in blocks:
        sums_KB = values_KN @ block.T
        flips += len(block)
        distances_B = np.empty(len(block))
        for pair, (one, other) in enumerate(zip(ones.tolist(), others.tolist(), strict=True)):
            np.subtract(sums_KB[one], sums_KB[other], out=distances_B)
            np.abs(distances_B, out=distances_B)
            extreme[pair] += np.count_nonzero(distances_B >= observed[pair] - slack)
    return extreme, flips


def compare_answers(right_KN: Floats) -> PairTable:
    """Return Tango's intervals and McNemar's p-values between every two of K results.

    `right_KN` is 1 for a right and 0 for a wrong answer.
    """
    rows = right_KN.shape[1]
    gained_KK = np.round(right_KN @ (1 - right_KN).T)
    # Both counts are whole numbers up to `rows`: one number names a pair of them, and equal pairs,
    # which are many on a large board, are solved once.
    names, places_KK = np.unique(gained_KK * (rows + 1.0) + gained_KK.T, return_inverse=True)
    gained, lost = np.divmod(names, rows + 1.0)
    lows, highs = tango_interval(gained, lost, rows)
    places_KK = places_KK.reshape(gained_KK.shape)
    return PairTable(
        differences_KK=(gained_KK - gained_KK.T) / rows,
        lows_KK=lows[places_KK],
        highs_KK=highs[places_KK],
        p_KK=answer_p_values(gained, lost, rows)[places_KK],
    )


def answer_p_values(gained: Floats, lost: Floats, rows: int) -> Floats:
    """Return two-sided p-values of McNemar's test: mid-p, or exact above half the rows.

    Mid-p is right on average over how many rows disagree. Where nearly all of them must, there is
    little to average, and equal results would differ at 5 % in up to 7.7 % of cases (16 rows).
    With the exact test above half the rows it is at most 5 % from 2 rows on, and the same holds
    for the smaller levels of the corrections (`tests/verdict/test_simulated_truth.py`).
    """
    exact = gained + lost > EXACT_ABOVE * rows
    return np.where(exact, exact_mcnemar(gained, lost), mid_p_mcnemar(gained, lost))


def mid_p_mcnemar(gained: Floats, lost: Floats) -> Floats:
    """Return two-sided mid-p values of McNemar's test; 1 where no row disagrees.

    `gained` rows only the one result answers rightly, `lost` rows only the other. Fagerland,
    Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91.
    """
    up_to, point = _binomial_tail(gained, lost)
    return np.asarray(np.where(gained == lost, 1.0, np.minimum(2 * up_to - point, 1.0)))


def exact_mcnemar(gained: Floats, lost: Floats) -> Floats:
    """Return two-sided p-values of McNemar's exact conditional test, which are never too small."""
    up_to, _ = _binomial_tail(gained, lost)
    return np.asarray(np.minimum(2 * up_to, 1.0))


def _binomial_tail(gained: Floats, lost: Floats) -> tuple[Floats, Floats]:
    """Return P(X <= fewer) and P(X = fewer) for X of `gained + lost` fair coins.

    `fewer` is the smaller of the two counts.
    """
    fewer, both = np.minimum(gained, lost), gained + lost
    log_half = -both * np.log(2.0)
    point = np.exp(gammaln(both + 1) - gammaln(fewer + 1) - gammaln(both - fewer + 1) + log_half)
    return bdtr(fewer, both.astype(np.int64), 0.5), point


def tango_interval(gained: Floats, lost: Floats, rows: int) -> tuple[Floats, Floats]:
    """Return the ends of the score interval of paired shares' difference, (gained - lost) / rows.

    Tango 1998, Statist. Med. 17:891. The ends are found by bisection, since the statistic falls as
    the difference asked for rises.
    """
    low, high = (_solve_tango(gained, lost, rows, limit) for limit in (_Z, -_Z))
    return low, high


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
