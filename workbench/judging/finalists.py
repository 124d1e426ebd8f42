"""The finalists of an experiment: the adapters that its verdict is about."""

from __future__ import annotations

from workbench.judging.finals import finalist_rows, read_finals
from workbench.judging.judged_rows import BoardJudge
from workbench.store.reader import Reader

MOST_FINALISTS = 3
"""Trials tied for first that are named where there were no finals."""


def finalists_of(reader: Reader, experiment: int) -> list[int]:
    """Return the trials whose adapters an experiment's verdict is about, best first.

    The trials that ship for each finalist where there were finals; else those that are tied for
    first, three at most. Judging the latter takes some tenths of a second, and imports numpy.
    """
    found = reader.experiment(experiment)
    trials = read_finals(reader, experiment)
    rows = finalist_rows(found, trials, None)
    if shipped := [row.shipped for row in rows if row.shipped is not None]:
        return shipped
    board = BoardJudge().judge_experiment(reader, experiment, found.created_utc).rows
    ranked = [row for row in board if row.rank is not None]
    tied = [row.trial for row in ranked if row.tied_for_first]
    return (tied or [row.trial for row in ranked[:1]])[:MOST_FINALISTS]
