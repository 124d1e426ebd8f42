"""Short text about judged finals, for the command line, the screen and files. All of it is pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench import formatting
from workbench.judging import board_words
from workbench.store.board_rows import FinalistRow
from workbench.text import safe_line

TITLE = "finals: means over new seeds"
HEADS = ("rank", "trial", "mean", "95 %", "vs base", "vs best", "seeds", "ships", "settings")
"""Heads of `finalist_cells`: `trial` is the finalist, `ships` the trial whose adapter ships."""


def finalist_cells(
    row: FinalistRow, rows: Sequence[FinalistRow], *, higher_is_better: bool, short_keys: bool
) -> tuple[object, ...]:
    """Return one finalist's line of the table, a cell for each of HEADS."""
    return (
        rank_text(row, rows),
        row.trial,
        formatting.score(row.mean),
        interval_text(row),
        board_words.gain_text(row.vs_base, higher_is_better),
        board_words.gain_text(row.vs_leader, higher_is_better),
        seeds_text(row),
        formatting.UNKNOWN if row.shipped is None else row.shipped,
        formatting.brief_settings(row.settings, short_keys=short_keys),
    )


def rank_text(row: FinalistRow, rows: Sequence[FinalistRow]) -> str:
    """Return the rank, or `=1` for each of several finalists that are tied for first."""
    if row.rank is None:
        return formatting.UNKNOWN
    if row.tied_for_first and sum(bool(one.tied_for_first) for one in rows) > 1:
        return f"{board_words.TIED}1"
    return str(row.rank)


def interval_text(row: FinalistRow) -> str:
    """Return the mean's 95 % interval, `0.711–0.868`, marked where it is approximate."""
    if row.low is None or row.high is None:
        return formatting.UNKNOWN
    mark = board_words.APPROXIMATE if row.approximate else ""
    return f"{mark}{formatting.score(row.low)}–{formatting.score(row.high)}"


def seeds_text(row: FinalistRow) -> str:
    """Return the seeds that are averaged: `3`, or `2 of 3` where not all have finished."""
    done = len(row.seeds)
    return str(done) if done == row.asked else f"{done} of {row.asked}"


def seed_notes(rows: Sequence[FinalistRow]) -> Iterator[str]:
    """Yield the sentences about seeds that are not averaged, each with its finalist."""
    for row in rows:
        yield from (f"finals of trial {row.trial}: {safe_line(note)}" for note in row.notes)
