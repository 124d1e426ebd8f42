"""Made-up results of held-out rows, as a worker that scored a trial reports them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from workbench.attempts.results_file import ResultsHead
from workbench.store.row_results import put_row_results
from workbench.store.writer import Store

EVALUATION, TOKENS = "e" * 32, "a" * 32
TARGETS = 20
"""Target tokens of each row."""


def made_up_losses(loss: float, rows: int, seed: int) -> list[float]:
    """Losses of rows in nats, whose mean is `loss`; some rows are harder for every seed."""
    dice, mine = random.Random("rows"), random.Random(seed)
    losses = [dice.lognormvariate(0, 0.6) * mine.lognormvariate(0, 0.15) for _ in range(rows)]
    return [one * loss * rows / sum(losses) for one in losses]


def made_up_answers(right: int, rows: int, seed: int) -> list[bool]:
    """Right and wrong answers, `right` of them right; easy rows are easy for every seed."""
    dice, mine = random.Random("rows"), random.Random(seed)
    ease = [dice.gauss(0, 1) + mine.gauss(0, 0.5) for _ in range(rows)]
    best = set(sorted(range(rows), key=lambda row: -ease[row])[:right])
    return [row in best for row in range(rows)]


def put_rows(
    store: Store,
    trial: int,
    *,
    losses: Sequence[float],
    right: Sequence[bool | None] | None = None,
    step: int | None = None,
    scored: bool = True,
    evaluation: str = EVALUATION,
) -> None:
    """Store the results of a trial's newest attempt; `step` is that of its scores unless given."""
    attempt = store.attempts(trial)[-1].id
    if step is None:
        query = "select max(step) from scores where trial = ?"
        step = int(store.db.execute(query, (trial,)).fetchone()[0] or 0)
    answers = [None if one is None else float(one) for one in right or ()]
    head = ResultsHead(
        evaluation=evaluation,
        tokens=TOKENS,
        step=step,
        scored=scored,
        targets=[TARGETS] * len(losses),
        sums={"loss": [loss * TARGETS for loss in losses]},
        means={"exact_match": answers} if right is not None else {},
    )
    put_row_results(store, trial, attempt, head)
