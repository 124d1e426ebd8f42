"""The differences that an experiment's held-out rows can show, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.store.reader import Reader
from workbench.store.row_results import read_row_results

if TYPE_CHECKING:  # numpy costs a front end 0.1 s at its start
    from workbench.verdict.types import RowResults

DISCORDANCES = (0.10, 0.30)
"""Shares of rows on which exactly one of two adapters is right, where none are known: close
relatives, and adapters that answer quite differently."""
SPREADS = (0.02, 0.10)
"""Standard deviations of the paired difference of two losses on a row, as a share of the loss,
where none are known."""
MOST_TRIALS = 24
"""Newest earlier trials on the same rows that are looked at: 276 pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDifference:
    """The smallest difference that the held-out rows can show, under one assumption."""

    score: str
    assumption: str
    """Words about the spread that is assumed or was measured."""
    difference: float | None
    """In the score's unit, for losses as a share of the loss; None where no difference at all can
    be shown."""
    rows: int
    half_rows: int
    """Rows that would show half of it."""


def shown_differences(
    rows: int, scores: Sequence[str], reader: Reader | None, evaluation: str
) -> list[ShownDifference]:
    """Return what `rows` held-out rows can show at 80 % power, for each score.

    `scores` are `loss` and names of shares of right answers. Where the home has results of several
    adapters on the very same rows, their differences are taken, else stated assumptions.
    `evaluation` is the `evaluation_digest` of a prepared recipe.
    """
    earlier = _earlier_results(reader, evaluation)
    found = []
    for score in scores:
        known = _known_spread(earlier, score)
        spreads = SPREADS if score == "loss" else DISCORDANCES
        for spread in (known,) if known is not None else spreads:
            found.append(_shown(rows, score, spread, measured=known is not None))
    return found


def _shown(rows: int, score: str, spread: float, *, measured: bool) -> ShownDifference:
    from workbench.verdict import power

    words = "measured on earlier trials" if measured else "assumed"
    if score == "loss":
        difference: float | None = power.smallest_mean_difference(rows, spread)
        about = f"rows differ by {spread:.1%} of the loss, {words}"
    else:
        difference = power.smallest_share_difference(rows, spread)
        about = f"{spread:.0%} of the rows are right for one of two only, {words}"
    return ShownDifference(
        score=score,
        assumption=about,
        difference=difference,
        rows=rows,
        half_rows=power.HALF_COSTS * rows,
    )


def _earlier_results(reader: Reader | None, evaluation: str) -> list[RowResults]:
    if reader is None:
        return []
    # Results by row are kept under a digest of their own, which needs no tokenizer: the experiment
    # knows the one that its preparation made.
    rows = reader.db.execute(
        """select distinct r.trial from row_results r
           join trials t on t.id = r.trial join experiments e on e.id = t.experiment
           where json_extract(e.prepared, '$.evaluation_digest') = ? and r.scored
           and t.kind = 'tune' order by r.trial desc limit ?""",
        (evaluation, MOST_TRIALS),
    )
    return read_row_results(reader, [row[0] for row in rows])


def _known_spread(results: Sequence[RowResults], score: str) -> float | None:
    """Return the median spread over all pairs of results; None without a pair.

    For a loss it is the standard deviation of a row's share in the paired difference, as a share of
    the loss; rows weigh as many target tokens as they have. For answers it is the discordance.
    """
    import numpy as np

    from workbench.verdict.paired import loss_spreads
    from workbench.verdict.rows import common_matrix, why_not_compared

    alike = [one for one in results if not why_not_compared(one, results[0], score)]
    if len(alike) < 2:
        return None
    matrix = common_matrix(alike, score)
    if matrix.rows < 2:
        return None
    pairs = np.triu_indices(len(alike), 1)
    if score == "loss":
        spreads_KK = loss_spreads(matrix)
    else:
        right_KN = matrix.values_KN
        spreads_KK = (right_KN[:, None] != right_KN[None, :]).mean(axis=2)
    spread = float(np.median(spreads_KK[pairs]))
    return spread if 0 < spread < np.inf else None
