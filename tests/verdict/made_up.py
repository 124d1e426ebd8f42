"""Results by row that are made up, for the tests of the verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.verdict.types import RowResults


def answers(trial: int, right: Sequence[float], *, evaluation: str = "rows") -> RowResults:
    """Return a result whose rows are right (1), wrong (0) or not scored (NaN)."""
    return RowResults(
        trial=trial,
        evaluation=evaluation,
        tokens="tokens",
        step=1,
        targets=np.zeros(len(right), dtype=np.int64),
        means={"exact_match": np.array(right, dtype=np.float64)},
    )


def first_right(trial: int, right: int, rows: int = 100) -> RowResults:
    """Return a result whose first `right` rows are right, and no other."""
    return answers(trial, [1.0] * right + [0.0] * (rows - right))


def losses(
    trial: int,
    per_token: Sequence[float],
    targets: Sequence[int] | None = None,
    *,
    step: int = 1,
    tokens: str = "tokens",
    evaluation: str = "rows",
) -> RowResults:
    """Return a result with these losses in nats per target token; 10 tokens a row by default."""
    counts = np.array(targets if targets is not None else [10] * len(per_token), dtype=np.int64)
    return RowResults(
        trial=trial,
        evaluation=evaluation,
        tokens=tokens,
        step=step,
        targets=counts,
        sums={"loss": np.array(per_token) * counts},
    )


def drawn_losses(trial: int, factor: float, rows: int = 200, *, step: int = 1) -> RowResults:
    """Return a result with `factor` times the losses that all results of these rows share."""
    hard = np.random.default_rng(rows).lognormal(0.0, 0.5, rows)
    own = np.random.default_rng([rows, trial, step]).normal(1.0, 0.05, rows)
    return losses(trial, (factor * hard * own).tolist(), step=step)
