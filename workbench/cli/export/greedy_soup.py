"""A greedy average: adapters join it, the best first, as long as its score does not fall.

Wortsman et al. 2022, Model soups, arXiv 2203.05482, recipe 1. Each step is an evaluation of its
own, which is archived when it has ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.adapters.subjects import ADAPTER
from workbench.cli.recipes.run import follow_to_end
from workbench.cli.tables import print_note
from workbench.cli.trials.evaluate import evaluate_on_own_rows
from workbench.errors import UsageError
from workbench.library.marks import archive_experiment
from workbench.service import Service
from workbench.trial import up_is_better

Average = Callable[[Sequence[int], Path], object]
"""A function that writes the average of these trials' adapters to a folder."""


def choose_greedily(
    order: Sequence[int], first: float, score_of: Callable[[list[int]], float | None], *, up: bool
) -> list[int]:
    """Return the trials of the average; `order` has the best first, whose score is `first`.

    `score_of` returns the score of an average, None for one that could not be scored.
    """
    chosen, best = [order[0]], first
    for trial in order[1:]:
        found = score_of([*chosen, trial])
        if found is not None and (found >= best if up else found <= best):
            chosen, best = [*chosen, trial], found
    return chosen


def greedy_trials(
    service: Service, words: Sequence[str], target: Path, write: Average
) -> list[int]:
    """Return the trials whose average is best, found step by step. Takes an evaluation for each.

    Raises UsageError for folders, for trials of several experiments and for those without a score.
    """
    if not all(word.isdecimal() for word in words):
        raise UsageError("--greedy takes trials alone", hint="name trials of one experiment")
    experiment = service.trial(int(words[0])).experiment
    scores = {row.trial: row.score for row in service.board(experiment.id)[1]}
    found = {int(word): scores.get(int(word)) for word in words}
    known = {trial: score for trial, score in found.items() if score is not None}
    if len(known) < len(found) or len(known) < 2:
        raise UsageError(
            "--greedy needs two trials or more of one experiment, each with a score",
            hint=f"see `workbench board {experiment.id}`",
        )
    up = up_is_better(experiment.rank_by)
    order = sorted(known, key=lambda trial: known[trial], reverse=up)
    tried = target.absolute().with_name(f".{target.name}.tried")

    def score_of(trials: list[int]) -> float | None:
        shutil.rmtree(tried, ignore_errors=True)  # of a command that was killed
        try:
            write(trials, tried)
            score = _score(service, trials, tried)
        finally:
            shutil.rmtree(tried, ignore_errors=True)
        shown = "no score" if score is None else f"{experiment.rank_by} {score:.4f}"
        print_note(f"the average of {', '.join(map(str, trials))}: {shown}")
        return score

    return choose_greedily(order, known[order[0]], score_of, up=up)


def _score(service: Service, trials: Sequence[int], folder: Path) -> float | None:
    answer = evaluate_on_own_rows(service, trials[0], [str(trials[0]), str(folder)])
    id = follow_to_end(service, int(answer.data["experiment"]))
    rows = service.board(id)[1]
    about = service.experiment(id)
    archive_experiment(service.home, id, about.created_utc, archived=True)
    return next((row.score for row in rows if row.settings.get(ADAPTER) == str(folder)), None)
