"""The board as rows: rank, score with its interval, differences, settings and costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tui import present
from tui.paint import Line, cut_text, plain_part
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.judging import board_words
from workbench.service import Baseline, BoardRow, JudgedBoard
from workbench.trial import State, up_is_better

PINNED = "⟂"
"""Marks the baseline."""
_WIDEST = 14
"""Cells of a column of settings at most."""
_HEADS = {"exact_match": "exact", "token_accuracy": "tokens", "perplexity": "ppl"}


def swept_keys(rows: Sequence[BoardRow]) -> list[str]:
    """Return the dotted keys in which trials differ, in the order of the rows.

    Where there is nothing to differ from, all keys that are set.
    """
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(dict.fromkeys(row.settings))
    tuned = [row for row in rows if row.kind != "base"]
    named = [key for key in keys if key != "score.rows"]
    return [key for key in named if len(tuned) < 2 or _differs(key, tuned)] or named


def _differs(key: str, rows: Sequence[BoardRow]) -> bool:
    return len({_setting_text(row, key) if key in row.settings else None for row in rows}) > 1


def _setting_text(row: BoardRow, key: str) -> str:
    value = row.settings.get(key)
    scored = key == "score.adapter"
    return formatting.scored_name(value) if scored else formatting.setting_text(value)


def board_columns(board: JudgedBoard, baseline: Baseline | None = None) -> tuple[Column, ...]:
    """Return the columns, with one for each setting that the trials differ in.

    Differences are from `baseline` where one is pinned, and else from the best trial.

    Energy has a column only where a card measured it, and intervals and differences only where
    results by row were kept. Narrow screens lose costs first, then differences, which the claims
    below the table tell too, and settings last: without them rows look the same.
    """
    rows, rank_by = board.rows, board.experiment.rank_by
    keys = swept_keys(rows)
    return (
        Column(title="", width=3, right=True),
        Column(title="trial", width=5),
        Column(title=_HEADS.get(rank_by, rank_by), width=7, right=True),
        *([_fitted("95 %", map(board_words.interval_text, rows))] if _judged(rows) else []),
        Column(title="vs base", width=7, right=True, drop=20),
        *([_difference_column(baseline)] if _judged(rows) else []),
        *(_setting_column(key, rows, 4 + n) for n, key in enumerate(keys)),
        # Dropped before any setting: on a narrow terminal settings say more than costs.
        Column(title="tok/s", width=6, right=True, drop=30),
        Column(title="peak", width=8, right=True, drop=31),
        Column(title="time", width=11, right=True, drop=40),
        *([Column(title="energy", width=8, right=True, drop=41)] if _metered(rows) else []),
        Column(title="state", width=_state_width(rows), grow=1),
    )


def _difference_column(baseline: Baseline | None) -> Column:
    title = "vs best" if baseline is None else f"vs #{baseline.trial}"
    # A pinned baseline is what the user looks at: it goes after the settings and not before.
    return Column(
        title=title, width=max(7, len(title)), right=True, drop=21 if baseline is None else 3
    )


def _fitted(title: str, texts: Iterable[str]) -> Column:
    return Column(title=title, width=max(map(len, (title, *texts))), right=True)


def _state_width(rows: Sequence[BoardRow]) -> int:
    """Return the cells of the longest state with its glyph."""
    return max((len(formatting.outcome_word(row.state, row.reason)) + 2 for row in rows), default=8)


def _judged(rows: Sequence[BoardRow]) -> bool:
    return any(row.score_low is not None for row in rows)


def _metered(rows: Sequence[BoardRow]) -> bool:
    return any(row.energy_wh is not None for row in rows)


def _setting_column(key: str, rows: Sequence[BoardRow], drop: int) -> Column:
    texts = [
        formatting.short_key(key),
        *(_setting_text(row, key) for row in rows),
    ]
    return Column(
        title=cut_text(texts[0], _WIDEST),
        width=min(_WIDEST, max(len(text) for text in texts)),
        right=True,
        drop=drop,
    )


def board_rows(
    board: JudgedBoard, marked: frozenset[int] = frozenset(), baseline: Baseline | None = None
) -> list[ListRow]:
    """Return a row for each trial, in the board's order; a star marks the best adapter.

    A bar stands before the trials in `marked`, and `⟂` before the pinned baseline.

    No adapter is marked where the first one is not better than the base model.
    """
    rows = board.rows
    keys = swept_keys(rows)
    better = (one.trial for one in rows if one.rank == 1 and (one.gain is None or one.gain > 0))
    best = next(better, None)
    pinned = None if baseline is None else baseline.trial
    return [
        _row(row, board, keys, baseline, row.trial == best, _mark(row.trial, marked, pinned))
        for row in rows
    ]


def _mark(trial: int, marked: frozenset[int], pinned: int | None) -> str:
    return PINNED if trial == pinned else "┃" if trial in marked else ""


def _row(
    row: BoardRow,
    board: JudgedBoard,
    keys: Sequence[str],
    baseline: Baseline | None,
    best: bool,
    mark: str,
) -> ListRow:
    base = row.kind == "base"
    tone, rank = "dim" if base else "", board_words.rank_text(row, board.rows)
    settings: list[Line] = [
        ((_setting_text(row, key) if key in row.settings else "·", tone),) for key in keys
    ]
    judged = _judged(board.rows)
    interval = present.known_or_faint(board_words.interval_text(row), tone)
    rank_part = ("" if row.rank is None else rank, "bold" if best else "")
    return ListRow(
        row.trial,
        (
            (("★" if best else "", "accent"), (" " * (best and len(rank) < 2), ""), rank_part),
            (
                (mark, "accent"),
                ("base" if base else f"#{row.trial}", "bold" if best else tone),
            ),
            present.known_or_faint(board_words.score_text(row), "bold" if best else tone),
            *([interval] if judged else []),
            _gain(row, formatting.score(row.gain, sign=True)),
            *([_behind(row, board.experiment.rank_by, baseline)] if judged else []),
            *settings,
            present.known_or_faint(formatting.rate(row.tokens_per_s), tone),
            present.known_or_faint(formatting.size(row.peak_bytes), tone),
            present.known_or_faint(formatting.duration(row.wall_s), tone),
            *(
                [present.known_or_faint(formatting.energy(row.energy_wh), tone)]
                if _metered(board.rows)
                else []
            ),
            (*present.named_state(row.state, row.reason), *_reason(row)),
        ),
    )


def _gain(row: BoardRow, text: str) -> Line:
    """Return the gain over the base, in colour only where it is statistically significant."""
    if row.kind == "base":
        return (("·", "dim"),)
    if row.vs_base is not None and not row.vs_base.significant:
        return ((text, ""),)
    return present.known_or_faint(text, "good" if row.gain is not None and row.gain > 0 else "bad")


def _behind(row: BoardRow, rank_by: str, baseline: Baseline | None) -> Line:
    """Return the difference to the baseline, in colour where it is statistically significant.

    Without a baseline, that to the best trial, dim where the two cannot be told apart.
    """
    if baseline is not None:
        found = baseline.differences.get(row.trial)
        if row.trial == baseline.trial:
            return (("·", "dim"),)
        text = board_words.gain_text(found, up_is_better(rank_by))
        if found is None or not found.significant:
            return present.known_or_faint(text)
        better = (found.difference > 0) == up_is_better(rank_by)
        return ((text, "good" if better else "bad"),)
    if row.kind == "base" or row.rank == 1:
        return (("·", "dim"),)
    text = board_words.gain_text(row.vs_leader, up_is_better(rank_by))
    return present.known_or_faint(text, "dim" if row.tied_for_first else "")


def _reason(row: BoardRow) -> Line:
    """Return why a trial failed or was pruned, or why a score or its interval is missing."""
    early = row.state in (State.FAILED, State.PRUNED) and row.reason
    text = row.reason if early else row.score_note
    return (("  ", ""), plain_part(text, "dim")) if text else ()


def claim_lines(
    board: JudgedBoard, trial: int | None, baseline: Baseline | None = None
) -> list[Line]:
    """Return the claims about the trial under the cursor, and what the marks of the table mean."""
    rank_by = board.experiment.rank_by
    row = next((one for one in board.rows if one.trial == trial), None)
    claims = board_words.row_line(row, board.rows, rank_by) if row else ""
    if baseline and trial is not None and (found := baseline.differences.get(trial)):
        gain = board_words.gain_text(found, up_is_better(rank_by), interval=True)
        claims += f"; vs trial {baseline.trial} {gain}, {board_words.p_text(found)}"
    lines = (claims, board_words.mark_line(board), *board.notes)
    return [(plain_part(line, "dim"),) for line in lines if line]


def verdict_lines(board: JudgedBoard) -> list[Line]:
    """Return the verdict."""
    return [(plain_part(board.verdict, "bold", 1_000),)]
