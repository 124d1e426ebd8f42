"""Estimates how much too good the winner's score is, as the rows that score it also chose it."""

# M candidates, N rows, B resamples.

from __future__ import annotations

import numpy as np

from workbench.verdict.resamples import resample_counts
from workbench.verdict.rows import RowMatrix
from workbench.verdict.types import Floats


def expected_optimism(
    matrix: RowMatrix, *, higher_is_better: bool, exponential: bool = False, seed: int = 0
) -> float | None:
    """Return the mean over row resamples of the winner's score there minus its original score.

    Positive means too good, whichever direction is better; at least 0. `exponential` takes the
    scores' exp, for perplexities. None for a single candidate: nothing was chosen.
    """
    candidates, rows = matrix.values_KN.shape
    if candidates < 2 or not rows:
        return None
    sign = 1.0 if higher_is_better else -1.0
    original_M = _scores(matrix.scores_K, exponential)
    gains = []
    for counts_BN in resample_counts(rows, seed=seed):
        sums_BM = counts_BN @ matrix.values_KN.T
        scores_BM = _scores(sums_BM / (counts_BN @ matrix.weights_N)[:, None], exponential)
        winner_B = (sign * scores_BM).argmax(axis=1)
        scores_B = np.take_along_axis(scores_BM, winner_B[:, None], axis=1)[:, 0]
        gains.append(sign * (scores_B - original_M[winner_B]))
    return max(float(np.concatenate(gains).mean()), 0.0)


def _scores(values: Floats, exponential: bool) -> Floats:
    return np.exp(values) if exponential else values
