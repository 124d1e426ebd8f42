"""Checks that the scorers of a recipe can score its held-out rows, before anything is queued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import RecipeError
from workbench.recipe.schema import Evaluate
from workbench.recipe.scorer_names import BUILT_IN
from workbench.text import safe_line
from workbench.training.scoring.scorers.answer_scores import score_built_in
from workbench.training.scoring.scorers.own_scorers import own_scorer
from workbench.training.scoring.scorers.sandbox import NoScore, ScorerLimits, run_scorer

TRIED_ROWS = 3
"""Held-out rows on which a user's own scorer is tried."""
ENOUGH = 0.9
"""A note is added if a smaller share of the held-out rows can be scored."""
_NEEDS = {
    "exact_match": "is an answer that it can compare",
    "f1": "is an answer that it can compare",
    "rouge_l": "holds a word",
    "json": "is JSON",
}


def scorer_notes(
    evaluate: Evaluate,
    rows: Sequence[tuple[str, str]],
    folder: Path,
    limits: ScorerLimits | None = None,
) -> list[str]:
    """Return notes about held-out rows that the recipe's scorers cannot score.

    `rows` are questions with their expected answers, `folder` holds the user's own scorers; each of
    them is run on the first rows with the expected answer as the generated one. Raises RecipeError
    for a scorer that is unknown, fails, or can score no row.
    """
    notes: list[str] = []
    for name in evaluate.scorers:
        if name in BUILT_IN:
            notes += _built_in_notes(name, evaluate.answer_pattern, rows)
        else:
            _try_own(name, rows[:TRIED_ROWS], folder, limits)
    return notes


def _built_in_notes(name: str, pattern: str | None, rows: Sequence[tuple[str, str]]) -> list[str]:
    found = [score_built_in(name, pattern, (question, own, own)) for question, own in rows]
    scored = sum(value is not None for value in found)
    if scored == len(rows) or not rows:
        return []
    first = safe_line(rows[found.index(None)][1], 60)
    part = " in the part that evaluate.answer_pattern finds" if pattern is not None else ""
    if not scored:
        raise RecipeError(
            f"evaluate.scorer: {name} can score none of {len(rows)} held-out rows: no expected "
            f"answer {_NEEDS[name]}{part} (the first: '{first}')",
            hint="name another scorer (docs/scorers.md), or change the expected answers",
        )
    if scored >= ENOUGH * len(rows):
        return []
    return [
        f"evaluate.scorer: {name} can score {scored} of {len(rows)} held-out rows; the expected "
        f"answers of the others are not what it needs (the first: '{first}')"
    ]


def _try_own(
    name: str, rows: Sequence[tuple[str, str]], folder: Path, limits: ScorerLimits | None
) -> None:
    scorer = own_scorer(name, folder)
    try:
        found = run_scorer(scorer, [(one, own, own) for one, own in rows], limits=limits)
    except NoScore as failed:
        raise RecipeError(
            f"evaluate.scorer: {name}: {failed}",
            hint=f"it was tried on {len(rows)} held-out rows with their expected answers; "
            f"correct {safe_line(scorer.path, 200)} (docs/scorers.md)",
        ) from failed
    if rows and all(value is None for value in found):
        raise RecipeError(
            f"evaluate.scorer: {name} returned None, which means not scorable, for all of "
            f"{len(rows)} held-out rows with their expected answers",
            hint=f"correct {safe_line(scorer.path, 200)}, or name another scorer",
        )
