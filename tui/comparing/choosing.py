"""The trials of a board that a comparison takes, in its order."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from workbench.service import BoardRow

MOST = 6
"""Trials of one comparison at most: more columns and curves cannot be told apart."""


def compared_trials(
    rows: Sequence[BoardRow], marked: Collection[int], chosen: int | None, baseline: int | None
) -> tuple[int, ...]:
    """Return the compared trials: the baseline first, then the marked ones, best first.

    The trial under the cursor joins a single mark, or the baseline where nothing is marked.
    """
    known = [row.trial for row in rows]
    wanted = set(known) & set(marked)
    if baseline in known and baseline is not None:
        wanted.add(baseline)
    if len(wanted) < 2 and chosen is not None:
        wanted.add(chosen)
    ordered = [trial for trial in known if trial in wanted]
    return tuple(sorted(ordered, key=lambda trial: trial != baseline))


def comparison_refusal(trials: Sequence[int]) -> str:
    """Return why these trials cannot be compared; empty where they can."""
    if 2 <= len(trials) <= MOST:
        return ""
    few = "move to another trial, or mark 2 to 6 of this board"
    return few if len(trials) < 2 else f"{len(trials)} trials are marked; compare at most {MOST}"
