"""The verdict on finals: settings that were trained again with several seeds each."""

# F finalists and the base, N rows.

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from workbench.verdict.comparisons import better_pairs, tied_for_first
from workbench.verdict.intervals import APPROXIMATE_BELOW, CONFIDENCE, share_interval
from workbench.verdict.optimism import expected_optimism
from workbench.verdict.paired import PairTable, are_shares, difference_variances, t_table
from workbench.verdict.rows import (
    PERPLEXITY,
    TOKEN_ACCURACY,
    RowMatrix,
    ScoreKind,
    common_matrix,
    find_kind,
    row_values,
    score_source,
    scored_rows,
    why_not_compared,
)
from workbench.verdict.types import (
    BoardVerdict,
    FinalsVerdict,
    Floats,
    Interval,
    RowResults,
    TrialVerdict,
)


def judge_finals(
    finalists: Mapping[int, Sequence[RowResults]],
    score: str,
    *,
    higher_is_better: bool,
    base: RowResults | None = None,
    seed: int = 0,
) -> FinalsVerdict:
    """Return the ranking of finalists by their mean score over new seeds.

    `finalists` has, for each trial whose settings were trained again, the results of the trials
    that did so: new seeds only, because the old one was chosen by its score. Results of another
    evaluation than most, and scores that are no numbers, are left out with a note. With a single
    seed each, `seeds` is 1 and the intervals hold row noise only.
    """
    empty = BoardVerdict(score=score, higher_is_better=higher_is_better, leader=None, trials={})
    runs, notes = _comparable_runs(finalists, score)
    if not runs:
        return FinalsVerdict(board=replace(empty, notes=notes))
    first = next(iter(runs.values()))[0]
    if base is not None and (reason := why_not_compared(base, first, score)):
        base, notes = None, (*notes, f"the base: not compared: {reason}")
    estimate = _estimate(runs, base, score)
    board = _board(empty, estimate, list(runs), seed=seed)
    scores = {
        finalist: dict(zip((one.trial for one in ones), scores, strict=True))
        for (finalist, ones), scores in zip(runs.items(), estimate.seed_scores, strict=False)
    }
    medians = {finalist: _median_trial(by_trial) for finalist, by_trial in scores.items()}
    shipped = medians[board.leader] if board.leader is not None else None
    return FinalsVerdict(
        board=replace(board, notes=notes), shipped=shipped, medians=medians, seed_scores=scores
    )


def _median_trial(scores: Mapping[int, float]) -> int:
    """Return the trial with the median score; of an even number, the lower of the middle two."""
    ordered = sorted(scores, key=lambda trial: (scores[trial], trial))
    return ordered[(len(ordered) - 1) // 2]


def _comparable_runs(
    finalists: Mapping[int, Sequence[RowResults]], score: str
) -> tuple[dict[int, list[RowResults]], tuple[str, ...]]:
    """Return each finalist's comparable results, by trial, and a sentence about the others."""
    every = [one for finalist in sorted(finalists) for one in finalists[finalist]]
    numbers = [one for one in every if _is_number(one, score_source(score))]
    kept: set[int] = set()
    if numbers:
        common = Counter(sorted(one.evaluation for one in numbers)).most_common(1)[0][0]
        first = next(one for one in numbers if one.evaluation == common)
        kept = {one.trial for one in numbers if not why_not_compared(one, first, score)}
    dropped = sorted(one.trial for one in every if one.trial not in kept)
    named = ", ".join(map(str, dropped))
    notes = (f"not compared, without a score on the same rows: trial {named}",) if dropped else ()
    runs = {
        finalist: sorted((o for o in ones if o.trial in kept), key=lambda one: one.trial)
        for finalist, ones in sorted(finalists.items())
    }
    return {finalist: ones for finalist, ones in runs.items() if ones}, notes


def _is_number(result: RowResults, source: str) -> bool:
    counted = scored_rows(result, source)
    return bool(counted.any() and np.isfinite(row_values(result, source)[counted]).all())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estimate:
    """The mean scores over seeds, and the three variances that their errors are made of."""

    kind: ScoreKind
    exponential: bool
    matrix: RowMatrix
    """The rows' values averaged over the seeds; the base, if there is one, comes last."""
    scores_F: Floats
    residuals_FN: Floats
    """Each row's linearised contribution to the mean score; sums to zero."""
    shares_F: Floats
    """1 / seeds of each finalist; 0 for the base, which has no seeds."""
    seed_variance: float
    """Variance of one seed's score, pooled over the finalists; contains the residual's."""
    residual_variance: float
    """Variance of one seed's score that comes from rows which react to the seed each on its own."""
    degrees: int
    """Degrees of freedom of the seed variance; 0 with one seed each."""
    seed_scores: list[list[float]]
    with_base: bool
    are_shares: bool
    """True where no score can leave 0 to 1."""


def _estimate(
    runs: Mapping[int, Sequence[RowResults]], base: RowResults | None, score: str
) -> _Estimate:
    source = score_source(score)
    every = [one for ones in runs.values() for one in ones] + ([base] if base else [])
    kind, whole = find_kind(every, source), common_matrix(every, source)
    within = are_shares(whole.values_KN)
    exponential = score == PERPLEXITY
    linear = whole.scores_K
    scores = np.exp(linear) if exponential else linear
    residuals = (whole.values_KN - linear[:, None] * whole.weights_N) / whole.weights_N.sum()
    if exponential:
        residuals *= scores[:, None]
    ends = np.cumsum([len(ones) for ones in runs.values()] + ([1] if base else []))
    parts = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    trained = parts[: len(runs)]
    degrees = sum(part.stop - part.start - 1 for part in trained)
    apart = sum(float(((scores[p] - scores[p].mean()) ** 2).sum()) for p in trained)
    own = sum(float(((residuals[p] - residuals[p].mean(axis=0)) ** 2).sum()) for p in trained)
    shares = [1 / len(ones) for ones in runs.values()] + ([0.0] if base else [])
    return _Estimate(
        kind=kind,
        exponential=exponential,
        matrix=replace(whole, values_KN=np.stack([whole.values_KN[p].mean(axis=0) for p in parts])),
        scores_F=np.array([scores[p].mean() for p in parts]),
        residuals_FN=np.stack([residuals[p].mean(axis=0) for p in parts]),
        shares_F=np.array(shares),
        seed_variance=apart / max(degrees, 1),
        residual_variance=own / max(degrees, 1) * whole.rows / max(whole.rows - 1, 1),
        degrees=degrees,
        seed_scores=[scores[p].tolist() for p in trained],
        with_base=base is not None,
        are_shares=source == TOKEN_ACCURACY or (kind is not ScoreKind.RATIO and within),
    )


def combine_variances(
    row: Floats, seed: Floats, residual: Floats, rows: int, seed_degrees: int
) -> tuple[Floats, Floats]:
    """Return the variance of a mean over seeds, or of a difference of two, and its degrees.

    Row and seed variance both contain the residual's, which is taken out once; the sum is at least
    the larger of the seed variance and the row variance without the residual's. Degrees by
    Satterthwaite 1946, Biometrics Bull. 2:110.
    """
    # A floor at the whole row variance covers up to 97.5 % where seeds hardly differ (simulated).
    variances = np.maximum(row + seed - residual, np.maximum(row - residual, seed))
    if not seed_degrees:
        return np.asarray(row), np.full(np.shape(row), float(max(rows - 1, 1)))
    own = row**2 / max(rows - 1, 1) + seed**2 / seed_degrees
    own = own + residual**2 / (seed_degrees * max(rows - 1, 1))
    degrees = np.where(own > 0, variances**2 / np.where(own > 0, own, 1.0), float(seed_degrees))
    return variances, np.maximum(degrees, 1.0)


def _board(
    empty: BoardVerdict, estimate: _Estimate, finalists: Sequence[int], *, seed: int
) -> BoardVerdict:
    higher = empty.higher_is_better
    count = len(finalists)
    intervals = _intervals(estimate)
    table = _pair_table(estimate)
    among = table.first(count)
    tied_F = tied_for_first(among, higher_is_better=higher)
    better_FF = better_pairs(among, tied_F, higher_is_better=higher)
    ranked = estimate.scores_F[:count] if higher else -estimate.scores_F[:count]
    best = int(ranked.argmax())
    tied_F[best] = True
    trials = {
        finalist: TrialVerdict(
            trial=finalist,
            score=intervals[place],
            tied_for_first=bool(tied_F[place]),
            vs_base=table.difference(place, count) if estimate.with_base else None,
            vs_leader=table.difference(place, best) if place != best else None,
            better_than=frozenset(
                finalists[other] for other in np.flatnonzero(better_FF[place]).tolist()
            ),
        )
        for place, finalist in enumerate(finalists)
    }
    return replace(
        empty,
        leader=finalists[best],
        trials=trials,
        base=intervals[count] if estimate.with_base else None,
        optimism=expected_optimism(
            replace(estimate.matrix, values_KN=estimate.matrix.values_KN[:count]),
            higher_is_better=higher,
            exponential=estimate.exponential,
            seed=seed,
        ),
        seeds=min(len(scores) for scores in estimate.seed_scores),
    )


def compare_finalists(
    runs: Mapping[int, Sequence[RowResults]], score: str, base: RowResults | None = None
) -> PairTable:
    """Return the differences between every two finalists, in the mapping's order; the base is last.

    All results must be comparable row by row; see `judge_finals`.
    """
    return _pair_table(_estimate(runs, base, score))


def _pair_table(estimate: _Estimate) -> PairTable:
    shares_FF = estimate.shares_F[:, None] + estimate.shares_F[None, :]
    variances_FF, degrees_FF = combine_variances(
        difference_variances(estimate.residuals_FN),
        estimate.seed_variance * shares_FF,
        estimate.residual_variance * shares_FF,
        estimate.matrix.rows,
        estimate.degrees,
    )
    table = t_table(estimate.scores_F, variances_FF, degrees_FF)
    return table.within_shares() if estimate.are_shares else table


def _intervals(estimate: _Estimate) -> list[Interval]:
    """Return each finalist's mean score with its t interval, and the base's."""
    rows = estimate.matrix.rows
    variances_F, degrees_F = combine_variances(
        (estimate.residuals_FN**2).sum(axis=1) * rows / max(rows - 1, 1),
        estimate.seed_variance * estimate.shares_F,
        estimate.residual_variance * estimate.shares_F,
        rows,
        estimate.degrees,
    )
    quantiles_F = stdtrit(degrees_F, (1 + CONFIDENCE) / 2)
    found = []
    for score, variance, quantile in zip(
        estimate.scores_F.tolist(), variances_F.tolist(), quantiles_F.tolist(), strict=True
    ):
        half = quantile * variance**0.5
        low, high = score - half, score + half
        if estimate.kind is ScoreKind.ANSWERS or (estimate.are_shares and not half):
            low, high = share_interval(score, variance, rows, quantile)
        elif estimate.are_shares:
            low, high = max(low, 0.0), min(high, 1.0)
        elif estimate.kind is ScoreKind.RATIO:
            low = max(low, 0.0)
        few = rows < APPROXIMATE_BELOW and estimate.kind is not ScoreKind.ANSWERS
        found.append(Interval(value=score, low=low, high=high, rows=rows, approximate=few))
    return found
