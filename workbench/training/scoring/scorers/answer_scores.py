"""The scorers that a recipe names, applied to generated answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.attempts.scorer_marks import LOSS_LIMIT, count_losses, scorer_mark
from workbench.errors import RecipeError
from workbench.recipe.schema import Evaluate
from workbench.recipe.scorer_names import BUILT_IN
from workbench.training.scoring.scorers.extraction import find_answer
from workbench.training.scoring.scorers.own_scorers import own_scorer
from workbench.training.scoring.scorers.sandbox import (
    NoScore,
    RowTexts,
    ScorerLimits,
    run_scorer,
)
from workbench.training.scoring.scorers.text_scorers import BUILT_IN_SCORERS


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnScorerRun:
    """The things that running a user's own scorers needs."""

    folder: Path
    """The home's folder `scorers`."""
    trial: Path | None = None
    """The trial's folder, for the mark of a running scorer; None where no worker can be lost."""
    attempt: int = 0
    """The number of the attempt that scores."""
    progress: Callable[[], None] = lambda: None
    """A function called several times a second; it may raise to end the scorer."""
    limits: ScorerLimits = field(default_factory=ScorerLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerScores:
    """The numbers that scorers gave to rows."""

    values: Mapping[str, Sequence[float | None]]
    """One number for each row by the scorer's name; None for a row that it cannot score."""
    missing: Mapping[str, str]
    """For each scorer that gave no score the reason, in words for people."""


def count_scored(values: Sequence[float | None]) -> int:
    """Return the number of rows that have a score."""
    return sum(value is not None for value in values)


def mean_scores(scores: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    """Return the mean of each score over the rows that have it; none for one without such rows."""
    known = {name: [one for one in row if one is not None] for name, row in scores.items()}
    return {name: math.fsum(values) / len(values) for name, values in known.items() if values}


def score_answers(
    evaluate: Evaluate, rows: Sequence[RowTexts | None], own: OwnScorerRun | None
) -> AnswerScores:
    """Score rows of (question, expected answer, generated answer) by `evaluate.scorers`.

    A row that is None was asked nothing and is scored by none. Built-in scorers compare what
    evaluate.answer_pattern finds, or the whole answers without a pattern; a user's own scorer
    always gets the whole texts. A scorer of the user's that fails is listed in `missing`, as are
    all of them where `own` is None.
    """
    values: dict[str, Sequence[float | None]] = {}
    missing: dict[str, str] = {}
    for name in evaluate.scorers:
        if name in BUILT_IN:
            values[name] = [score_built_in(name, evaluate.answer_pattern, row) for row in rows]
            continue
        try:
            if own is None:
                raise NoScore("scorers of the user's own are not run here")
            values[name] = _own_scores(name, rows, own)
        except NoScore as failed:
            missing[name] = f"scorer {name}: {failed}"
    return AnswerScores(values=values, missing=missing)


def score_built_in(name: str, pattern: str | None, row: RowTexts | None) -> float | None:
    """Return the number that a built-in scorer gives to one row, None where it cannot score it.

    With a pattern, an expected answer that it does not match cannot be scored, and a generated one
    that it does not match scores 0.
    """
    if row is None:
        return None
    _, expected, answer = row
    if pattern is not None:
        wanted, found = find_answer(pattern, expected), find_answer(pattern, answer)
        if wanted is None:
            return None
        if found is None:
            return None if BUILT_IN_SCORERS[name](wanted, "") is None else 0.0
        expected, answer = wanted, found
    return BUILT_IN_SCORERS[name](expected, answer)


def _own_scores(
    name: str, rows: Sequence[RowTexts | None], own: OwnScorerRun
) -> list[float | None]:
    """Run a user's own scorer on the rows that were asked; a mark tells that it runs.

    Raises NoScore if it gives no score, and at once if it ended too many workers before.
    """
    try:
        scorer = own_scorer(name, own.folder)
    except RecipeError as gone:  # it was there when the experiment was prepared
        raise NoScore(gone.what) from gone
    asked = [row for row in rows if row is not None]
    if own.trial is None:
        found = run_scorer(scorer, asked, limits=own.limits, progress=own.progress)
    else:
        if (losses := count_losses(own.trial, scorer.path.stem)) >= LOSS_LIMIT:
            raise NoScore(f"skipped, because its worker ended {losses} times while it ran")
        with scorer_mark(own.trial, own.attempt, scorer.path.stem):
            found = run_scorer(scorer, asked, limits=own.limits, progress=own.progress)
    scores = iter(found)
    return [None if row is None else next(scores) for row in rows]
