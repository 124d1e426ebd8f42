"""Claims about many adapters at once: who is tied for first, and who is better than whom."""

# K results.

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from workbench.verdict.paired import PairTable
from workbench.verdict.types import Floats

LEVEL = 0.05
"""Probability of a false claim in a board, for each of the two kinds of claims."""

Bools = NDArray[np.bool_]


def tied_for_first(table: PairTable, *, higher_is_better: bool, family: int = 0) -> Bools:
    """Return for each of K results whether it may be the best.

    `family` is the number of results that the K were chosen from by their score, where it is more.

    One leaves the group only if some other beats it one-sided at 0.05 / (K - 1), and their
    interval excludes zero: multiple comparisons with the best, Hsu 1984, Ann. Statist. 12:1136.
    The true best is then in the group in at least 95 % of boards.
    """
    results = len(table.p_KK)
    if results < 2:
        return np.ones(results, dtype=np.bool_)
    better_KK = _ahead(table, higher_is_better) & table.significant_KK
    beats_KK = better_KK & (table.p_KK / 2 < LEVEL / (max(family, results) - 1))
    return np.asarray(~beats_KK.any(axis=0))


def better_pairs(
    table: PairTable, tied_K: Bools, *, higher_is_better: bool, family: int = 0
) -> Bools:
    """Return (K, K): True where result i is better than result j in plain words.

    Holm's correction over all pairs, so that a false claim stands in at most 5 % of boards: Holm
    1979, Scand. J. Statist. 6:65. Who is tied for first is not called worse than anybody. Pairs
    of a larger `family`, from which these results were chosen by their score, count as well.
    """
    claimed_KK = holm_rejects(table.p_KK, family) & table.significant_KK
    return np.asarray(claimed_KK & _ahead(table, higher_is_better) & ~tied_K[None, :])


def holm_rejects(p_KK: Floats, family: int = 0) -> Bools:
    """Return (K, K), symmetric: True for pairs whose p-value Holm's procedure rejects at 0.05.

    Pairs of a larger `family` count as pairs that are not rejected.
    """
    results = len(p_KK)
    pairs = math.comb(max(family, results), 2)
    rows, columns = np.triu_indices(results, 1)
    p = p_KK[rows, columns]
    order = np.argsort(p, kind="stable")
    kept = p[order] >= LEVEL / np.arange(pairs, pairs - len(p), -1)
    first_kept = int(np.argmax(kept)) if kept.any() else len(p)
    rejected_KK = np.zeros((results, results), dtype=np.bool_)
    won = order[:first_kept]
    rejected_KK[rows[won], columns[won]] = True
    return rejected_KK | rejected_KK.T


def _ahead(table: PairTable, higher_is_better: bool) -> Bools:
    differences_KK = table.differences_KK
    return np.asarray(differences_KK > 0 if higher_is_better else differences_KK < 0)
