"""Short text about judged boards, for the command line, the screen and files.

Every function is pure and returns plain text. Differences are shown as gains: above 0 is better,
for a loss too, as in the column `vs base`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from workbench import formatting
from workbench.store.board_rows import BoardRow, JudgedBoard, ScoreDifference
from workbench.text import safe_line
from workbench.trial import State, up_is_better

OPTIMISTIC = "*"
"""Marks the leader's own score."""
APPROXIMATE = "~"
"""Marks an interval that may be too narrow."""
TINY = "less than 0.001"
"""An amount that is above zero and is rounded to it."""
TIED = "="
"""Marks a rank that several trials share."""


def rank_text(row: BoardRow, rows: Sequence[BoardRow]) -> str:
    """Return the rank, or `=1` for each of several trials that are tied for first."""
    if row.rank is None:
        return formatting.UNKNOWN
    return f"{TIED}1" if row.tied_for_first and has_ties(rows) else str(row.rank)


def has_ties(rows: Sequence[BoardRow]) -> bool:
    """Return whether several trials are tied for first: a leader alone is tied with nobody."""
    return sum(bool(row.tied_for_first) for row in rows) > 1


def score_text(row: BoardRow) -> str:
    """Return the score, with a mark where it is optimistic because the trial was chosen by it."""
    mark = OPTIMISTIC if row.optimism else ""
    return formatting.score(row.score) + mark


def interval_text(row: BoardRow) -> str:
    """Return the score's 95 % interval, `0.711–0.868`, marked where it is approximate."""
    if row.score_low is None or row.score_high is None:
        return formatting.UNKNOWN
    if not (math.isfinite(row.score_low) and math.isfinite(row.score_high)):  # of one row
        return formatting.UNKNOWN
    mark = APPROXIMATE if row.score_approximate else ""
    return f"{mark}{formatting.score(row.score_low)}–{formatting.score(row.score_high)}"


def gain_text(
    difference: ScoreDifference | None, higher_is_better: bool, *, interval: bool = False
) -> str:
    """Return a difference as a gain, `+0.135`, with `interval` also `+0.135 [+0.021, +0.249]`."""
    if difference is None:
        return formatting.UNKNOWN
    sign = 1 if higher_is_better else -1
    # 0.0 is added so that no difference turned round is -0.000.
    gain = formatting.score(sign * difference.difference + 0.0, sign=True)
    if not interval:
        return gain
    low, high = sorted((sign * difference.low + 0.0, sign * difference.high + 0.0))
    low_text, high_text = formatting.score(low, sign=True), formatting.score(high, sign=True)
    return f"{gain} [{low_text}, {high_text}]"


def p_text(difference: ScoreDifference) -> str:
    """Return a p-value: `p 0.021`, `p < 0.001`."""
    return f"p {formatting.p_value(difference.p)}"


def row_line(row: BoardRow, rows: Sequence[BoardRow], rank_by: str) -> str:
    """Return the claims about one trial of a board's `rows` in a line; empty where there are none.

    For example `trial 4: exact_match 0.667 [0.568–0.752], 96 rows; vs base +0.667 [+0.560, +0.750],
    p < 0.001; tied for first`.
    """
    if row.score is None or row.score_low is None:
        return f"trial {row.trial}: {safe_line(row.score_note)}" if row.score_note else ""
    name = "the base" if row.kind == "base" else f"trial {row.trial}"
    count = f", {formatting.plural(row.score_rows, 'row')}" if row.score_rows else ""
    parts = [
        f"{name}: {safe_line(rank_by)} {formatting.score(row.score)} [{interval_text(row)}]{count}"
    ]
    for other, difference in (("base", row.vs_base), ("best", row.vs_leader)):
        if difference is not None:
            gain = gain_text(difference, up_is_better(rank_by), interval=True)
            parts.append(f"vs {other} {gain}, {p_text(difference)}")
    if row.tied_for_first and has_ties(rows):
        parts.append("tied for first")
    return "; ".join(parts)


def footnotes(board: JudgedBoard) -> Iterator[str]:
    """Yield the lines below a board: its marks, missing scores and missing comparisons."""
    yield from mark_notes(board)
    yield from _reasons(board.rows)
    yield from (safe_line(note) for note in board.notes)


def mark_notes(board: JudgedBoard) -> Iterator[str]:
    """Yield a line for each mark that stands in the board, with what it means."""
    tied, optimism, approximate = _marks(board)
    if tied:
        yield f"{TIED}1  tied for first: these rows cannot tell them from the best"
    if optimism:
        why = "because it was chosen on the same rows"
        about = "" if optimism == TINY else "about "
        yield f"{OPTIMISTIC}   optimistic by {about}{optimism}, {why}"
    if approximate:
        yield f"{APPROXIMATE}   approximate: with few rows an interval can be too narrow"


def mark_line(board: JudgedBoard) -> str:
    """Return what the marks of the board mean in one line of at most 78 cells, or ''."""
    tied, optimism, approximate = _marks(board)
    meanings = (
        f"{TIED}1 tied for first" if tied else "",
        f"{OPTIMISTIC} optimistic by {optimism}: chosen by it" if optimism else "",
        f"{APPROXIMATE} approximate" if approximate else "",
    )
    return " · ".join(meaning for meaning in meanings if meaning)


def _marks(board: JudgedBoard) -> tuple[bool, str, bool]:
    """Return which marks stand in a board: ties, the leader's optimism in words, few rows."""
    leader = board.leader
    optimism = formatting.score(leader.optimism) if leader is not None and leader.optimism else ""
    optimism = TINY if optimism == "0.000" else optimism
    return has_ties(board.rows), optimism, any(row.score_approximate for row in board.rows)


def _reasons(rows: Iterable[BoardRow]) -> Iterator[str]:
    """Yield why trials failed or were pruned, and why scores or intervals are missing."""
    missing: dict[str, list[int]] = {}
    for row in rows:
        if row.state in (State.FAILED, State.PRUNED) and row.reason:
            yield f"trial {row.trial}: {row.state}: {safe_line(row.reason)}"
        elif row.reason and row.state == State.DONE:  # one of its scores is missing
            missing.setdefault(row.reason, []).append(row.trial)
        elif row.score_note and State(row.state).final:
            missing.setdefault(row.score_note, []).append(row.trial)
    for why, trials in missing.items():
        yield f"{id_ranges(sorted(trials))}: {safe_line(why)}"


def id_ranges(ids: Sequence[int]) -> str:
    """Return `trial 3`, or `trials 3 to 5, 8 and 9` for several ids in rising order."""
    ranges: list[list[int]] = []
    for id in ids:
        if ranges and ranges[-1][-1] == id - 1:
            ranges[-1].append(id)
        else:
            ranges.append([id])
    words: list[str] = []
    for one in ranges:
        words += [f"{one[0]} to {one[-1]}"] if len(one) > 2 else map(str, one)
    text = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"trial{'' if len(ids) == 1 else 's'} {text}"
