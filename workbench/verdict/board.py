"""The verdict on a board: intervals, paired differences, ties and optimism of one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from workbench.verdict.comparisons import better_pairs, tied_for_first
from workbench.verdict.intervals import score_intervals, wilson_interval
from workbench.verdict.optimism import expected_optimism
from workbench.verdict.paired import PairTable, compare_linearised, compare_pairs
from workbench.verdict.rows import (
    PERPLEXITY,
    TOKEN_ACCURACY,
    RowMatrix,
    ScoreKind,
    common_matrix,
    find_kind,
    group_alike,
    score_source,
    scored_rows,
    why_not_compared,
)
from workbench.verdict.types import BoardVerdict, Interval, RowResults, TrialVerdict


def judge_board(
    results: Sequence[RowResults],
    base: RowResults | None,
    score: str,
    *,
    higher_is_better: bool,
    checkpoints: Sequence[RowResults] = (),
    family: int = 0,
    seed: int = 0,
) -> BoardVerdict:
    """Return what the rows of one evaluation allow to claim about the adapters that were scored.

    `results` has one element for each trial, in any order; `score` is a name in `sums` or `means`,
    or `perplexity`. Only results of the leader's evaluation are compared; the others get an
    interval of their own, and a note says why. `checkpoints` are the results of all checkpoints
    among which the best was kept; they enter the optimism alone. Results without the score, or with
    one that is no number, are left out. `family` is the number of trials that `results` were chosen
    from by their score, where only the best are given: the corrections for many comparisons then
    count all of them. The same results and seed give the same digits. Time and memory grow with
    the square of the results.
    """
    bases = [base] if base else []
    kind = find_kind([*results, *bases], score_source(score))
    scorer = _Scorer(score, kind, higher_is_better, seed, family)
    scored, intervals = scorer.intervals(results)
    bases, base_intervals = scorer.intervals(bases)
    verdict = BoardVerdict(
        score=score,
        higher_is_better=higher_is_better,
        leader=None,
        trials={trial: _alone(trial, interval) for trial, interval in intervals.items()},
        base=base_intervals[bases[0].trial] if bases else None,
    )
    if not scored:
        return verdict
    sign = 1 if higher_is_better else -1
    # Of equal scores the lower loss leads, as on the board.
    leader = max(
        scored,
        key=lambda one: (sign * intervals[one.trial].value, -_mean_loss(one), -one.trial),
    )
    compared, refused = _comparable(scored, leader, score_source(score))
    bases, base_refused = _comparable(bases, leader, score_source(score))
    claims, notes = _claims(scorer, compared, bases, leader, intervals)
    return replace(
        verdict,
        leader=leader.trial,
        trials={**verdict.trials, **claims},
        optimism=_optimism(scorer, compared, checkpoints, leader),
        notes=_refusals(refused, "trial") + _refusals(base_refused, "the base") + notes,
    )


def _mean_loss(result: RowResults) -> float:
    """Return the loss in nats per target token; infinity where there is none."""
    if "loss" not in result.sums or not result.targets.sum():
        return math.inf
    return float(result.sums["loss"].sum() / result.targets.sum())


@dataclass(frozen=True, slots=True)
class _Scorer:
    """A score with the methods that its kind needs."""

    score: str
    kind: ScoreKind
    higher_is_better: bool
    seed: int
    family: int

    @property
    def exponential(self) -> bool:
        return self.score == PERPLEXITY

    def intervals(
        self, results: Sequence[RowResults]
    ) -> tuple[list[RowResults], dict[int, Interval]]:
        """Return the results whose score is a number, in the order of trials, and its intervals."""
        ordered = sorted(results, key=lambda one: one.trial)
        found: dict[int, Interval] = {}
        for alike in group_alike(ordered, score_source(self.score)):
            matrix = common_matrix(alike, score_source(self.score))
            finite_K = np.isfinite(matrix.values_KN).all(axis=1)
            if matrix.rows and finite_K.any():
                kept = [alike[place].trial for place in np.flatnonzero(finite_K).tolist()]
                matrix = replace(matrix, values_KN=matrix.values_KN[finite_K])
                intervals = score_intervals(matrix, self.kind, seed=self.seed)
                found |= zip(kept, map(self._in_unit, intervals), strict=True)
        return [one for one in ordered if one.trial in found], found

    def _in_unit(self, interval: Interval) -> Interval:
        """Return the interval in the score's unit, within what the score can be."""
        if self.score == TOKEN_ACCURACY:
            return _share_of_tokens(interval)
        if not self.exponential:
            return interval
        ends = (interval.value, interval.low, interval.high)
        value, low, high = (math.exp(min(end, 700.0)) for end in ends)
        return replace(interval, value=value, low=low, high=high)

    def compare(self, matrix: RowMatrix) -> PairTable:
        """Return the differences between every two results of a matrix, in the score's unit."""
        table = compare_pairs(matrix, self.kind, seed=self.seed)
        if not self.exponential:
            return table
        # exp is linearised at each score. The p-value stays the loss's: equal losses and equal
        # perplexities are the same claim.
        losses_K = matrix.scores_K
        perplexities_K = np.exp(losses_K)
        residuals_KN = matrix.values_KN - losses_K[:, None] * matrix.weights_N
        residuals_KN *= perplexities_K[:, None] / matrix.weights_N.sum()
        return replace(compare_linearised(perplexities_K, residuals_KN), p_KK=table.p_KK)


def _claims(
    scorer: _Scorer,
    compared: Sequence[RowResults],
    bases: Sequence[RowResults],
    leader: RowResults,
    intervals: dict[int, Interval],
) -> tuple[dict[int, TrialVerdict], tuple[str, ...]]:
    """Return the claims about each compared trial, and sentences about rows left out."""
    everybody = [*compared, *bases]
    matrix = common_matrix(everybody, score_source(scorer.score))
    if matrix.rows < 2:
        alone = replace(_alone(leader.trial, intervals[leader.trial]), tied_for_first=True)
        return {leader.trial: alone}, ("a single held-out row cannot compare adapters",)
    table = scorer.compare(matrix)
    notes = _left_out(everybody, matrix, score_source(scorer.score))
    return _compared_claims(scorer, table, compared, bool(bases), leader, intervals), notes


def _compared_claims(
    scorer: _Scorer,
    table: PairTable,
    compared: Sequence[RowResults],
    with_base: bool,
    leader: RowResults,
    intervals: dict[int, Interval],
) -> dict[int, TrialVerdict]:
    """Return the claims about each compared trial; the table has the base last, if at all."""
    among = table.first(len(compared))
    up, family = scorer.higher_is_better, scorer.family
    tied_K = tied_for_first(among, higher_is_better=up, family=family)
    better_KK = better_pairs(among, tied_K, higher_is_better=up, family=family)
    first = compared.index(leader)
    tied_K[first] = True
    claims = {}
    for place, one in enumerate(compared):
        beaten = frozenset(
            compared[other].trial for other in np.flatnonzero(better_KK[place]).tolist()
        )
        claims[one.trial] = TrialVerdict(
            trial=one.trial,
            score=intervals[one.trial],
            tied_for_first=bool(tied_K[place]),
            vs_base=table.difference(place, len(compared)) if with_base else None,
            vs_leader=table.difference(place, first) if place != first else None,
            better_than=beaten,
        )
    return claims


def _optimism(
    scorer: _Scorer,
    compared: Sequence[RowResults],
    checkpoints: Sequence[RowResults],
    leader: RowResults,
) -> float | None:
    """Return the leader's expected optimism over all trials and checkpoints that were compared."""
    source = score_source(scorer.score)
    candidates = {(one.trial, one.step): one for one in compared}
    usable, _ = _comparable(checkpoints, leader, source)
    candidates |= {(one.trial, one.step): one for one in usable}
    if len(candidates) < 2:
        return None
    matrix = common_matrix([candidates[key] for key in sorted(candidates)], source)
    finite = np.isfinite(matrix.values_KN).all(axis=1)
    return expected_optimism(
        replace(matrix, values_KN=matrix.values_KN[finite]),
        higher_is_better=scorer.higher_is_better,
        exponential=scorer.exponential,
        seed=scorer.seed,
    )


def _comparable(
    results: Sequence[RowResults], leader: RowResults, source: str
) -> tuple[list[RowResults], dict[str, list[RowResults]]]:
    """Split results into those that may be compared with the leader's, and the others by reason."""
    compared: list[RowResults] = []
    refused: dict[str, list[RowResults]] = {}
    for one in results:
        reason = why_not_compared(one, leader, source)
        if reason:
            refused.setdefault(reason, []).append(one)
        else:
            compared.append(one)
    return compared, refused


def _refusals(refused: dict[str, list[RowResults]], name: str) -> tuple[str, ...]:
    """Return a sentence for each reason why results are not compared."""
    notes = []
    for reason, ones in refused.items():
        trials = ", ".join(str(one.trial) for one in ones)
        who = name if name != "trial" else f"trial{'s' if len(ones) > 1 else ''} {trials}"
        notes.append(f"{who}: not compared with the best: {reason}")
    return tuple(notes)


def _left_out(everybody: Sequence[RowResults], matrix: RowMatrix, source: str) -> tuple[str, ...]:
    """Return a sentence if rows that some result lacks were left out of all comparisons."""
    counted = np.logical_or.reduce([scored_rows(one, source) for one in everybody])
    lacking = int(counted.sum()) - matrix.rows
    if not lacking:
        return ()
    rows = "1 row is" if lacking == 1 else f"{lacking} rows are"
    return (f"{rows} left out of the comparisons, because some result has no score there",)


def _share_of_tokens(interval: Interval) -> Interval:
    """Return the interval within 0 to 1; Wilson's where the share is equal in every row.

    Resamples of equal rows are equal, so that their interval has no width. Each row then counts as
    one answer, because tokens of one row are not independent.
    """
    if math.isclose(interval.low, interval.high, abs_tol=1e-12):
        low, high = wilson_interval(interval.value * interval.rows, interval.rows)
        return replace(interval, low=low, high=high)
    return replace(interval, high=min(interval.high, 1.0))


def _alone(trial: int, interval: Interval) -> TrialVerdict:
    return TrialVerdict(trial=trial, score=interval, tied_for_first=False)
