"""Scores on the test rows, which chose nothing: of the finalists and the base, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.formatting import plural
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.store.reader import Reader
from workbench.store.row_results import read_row_results
from workbench.store.rows import Experiment
from workbench.store.score_trials import find_test_trials
from workbench.trial import up_is_better

if TYPE_CHECKING:
    from workbench.verdict.types import Interval, RowResults

Tested = Mapping[int | None, "RowResults"]
"""Results on the test rows by the tuned trial's id; None stands for the base."""


def read_tested(reader: Reader, experiment: int) -> dict[int | None, RowResults]:
    """Return the results on the experiment's test rows; empty where there are none yet."""
    tests = find_test_trials(reader, experiment)
    found = {one.trial: one for one in read_row_results(reader, list(tests.values()))}
    return {adapter: found[trial] for adapter, trial in tests.items() if trial in found}


def judge_tested(rank_by: str, tested: Tested) -> dict[int | None, Interval]:
    """Return the score on the test rows with its 95 % interval, by tuned trial; None: the base."""
    if not tested:
        return {}
    from workbench.verdict.board import judge_board

    adapters = [one for adapter, one in tested.items() if adapter is not None]
    better = up_is_better(rank_by)
    verdict = judge_board(adapters, tested.get(None), rank_by, higher_is_better=better)
    by_trial = {one.trial: adapter for adapter, one in tested.items()}
    scores: dict[int | None, Interval] = {
        by_trial[trial]: claim.score for trial, claim in verdict.trials.items()
    }
    return scores | ({None: verdict.base} if verdict.base else {})


def with_tests(board: JudgedBoard, scores: Mapping[int | None, Interval]) -> JudgedBoard:
    """Return the board with the test scores in its rows, and a note that names them."""
    if not scores:
        return board
    rows = [_with_test(row, scores) for row in board.rows]
    note = _note(board.experiment, scores)
    return dataclasses.replace(board, rows=rows, notes=(*board.notes, note))


def _with_test(row: BoardRow, scores: Mapping[int | None, Interval]) -> BoardRow:
    found = scores.get(None if row.kind == "base" else row.trial)
    if found is None:
        return row
    return dataclasses.replace(
        row, test_score=found.value, test_low=found.low, test_high=found.high, test_rows=found.rows
    )


def _note(experiment: Experiment, scores: Mapping[int | None, Interval]) -> str:
    """Return `test rows, used for no choice (24): trial 20 0.08 [0.02, 0.26]; the base …`."""
    from workbench.verdict.words import interval_words

    rows = max(one.rows for one in scores.values())
    order: Sequence[int | None] = [*(one for one in scores if one is not None), None]
    parts = [
        f"{'the base' if one is None else f'trial {one}'} {interval_words(scores[one], 3)}"
        for one in order
        if one in scores
    ]
    name = experiment.rank_by.replace("_", " ")
    return f"{name} on {plural(rows, 'test row')}, which chose nothing: {'; '.join(parts)}"
