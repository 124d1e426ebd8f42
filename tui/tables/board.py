"""The board as rows: each adapter's rank, score, gain over the base, settings and costs."""

from __future__ import annotations

from collections.abc import Sequence

from tui import present
from tui.paint import Line, cut_text, plain_part
from tui.widgets.rowlist import Column, ListRow
from workbench import formatting
from workbench.service import BoardRow
from workbench.trial import State

_WIDEST = 14
"""Cells of a column of settings at most."""
_HEADS = {"exact_match": "exact", "token_accuracy": "tokens", "perplexity": "ppl"}


def swept_keys(rows: Sequence[BoardRow]) -> list[str]:
    """Return the dotted keys that any trial sets, in the order of the rows."""
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(dict.fromkeys(row.settings))
    return list(keys)


def board_columns(rows: Sequence[BoardRow], rank_by: str) -> tuple[Column, ...]:
    """Return the columns, with one for each setting that the trials differ in.

    Energy has a column only where a card measured it.
    """
    keys = swept_keys(rows)
    return (
        Column(title="", width=3, right=True),
        Column(title="trial", width=5),
        Column(title=_HEADS.get(rank_by, rank_by), width=7, right=True),
        Column(title="vs base", width=8, right=True),
        *(_setting_column(key, rows, 4 + n) for n, key in enumerate(keys)),
        # Dropped before any setting: on a narrow terminal settings say more than costs.
        Column(title="tok/s", width=6, right=True, drop=30),
        Column(title="peak", width=8, right=True, drop=31),
        Column(title="time", width=11, right=True, drop=40),
        *([Column(title="energy", width=8, right=True, drop=41)] if _metered(rows) else []),
        Column(title="state", width=10, grow=1),
    )


def _metered(rows: Sequence[BoardRow]) -> bool:
    return any(row.energy_wh is not None for row in rows)


def _setting_column(key: str, rows: Sequence[BoardRow], drop: int) -> Column:
    texts = [
        formatting.short_key(key),
        *(formatting.setting_text(row.settings.get(key)) for row in rows),
    ]
    return Column(
        title=cut_text(texts[0], _WIDEST),
        width=min(_WIDEST, max(len(text) for text in texts)),
        right=True,
        drop=drop,
    )


def board_rows(board: Sequence[BoardRow]) -> list[ListRow]:
    """Return a row for each trial, in the board's order; a star marks the best adapter.

    No adapter is marked where the first one is not better than the base model.
    """
    keys = swept_keys(board)
    better = (one.trial for one in board if one.rank == 1 and (one.gain is None or one.gain > 0))
    best = next(better, None)
    metered = _metered(board)
    return [_row(row, keys, row.trial == best, metered) for row in board]


def _row(row: BoardRow, keys: Sequence[str], best: bool, metered: bool) -> ListRow:
    base = row.kind == "base"
    tone = "dim" if base else ""
    settings: list[Line] = [
        ((formatting.setting_text(row.settings[key]) if key in row.settings else "·", tone),)
        for key in keys
    ]
    return ListRow(
        row.trial,
        (
            (("★ " if best else "", "accent"), (str(row.rank or ""), "bold" if best else "")),
            (("base" if base else f"#{row.trial}", "bold" if best else tone),),
            present.known_or_faint(formatting.score(row.score), "bold" if best else tone),
            _gain(row),
            *settings,
            present.known_or_faint(formatting.rate(row.tokens_per_s), tone),
            present.known_or_faint(formatting.size(row.peak_bytes), tone),
            present.known_or_faint(formatting.duration(row.wall_s), tone),
            *([present.known_or_faint(formatting.energy(row.energy_wh), tone)] if metered else []),
            (*present.named_state(row.state, row.reason), *_reason(row)),
        ),
    )


def _gain(row: BoardRow) -> Line:
    if row.kind == "base":
        return (("the base", "dim"),)
    tone = "good" if row.gain is not None and row.gain > 0 else "bad"
    return present.known_or_faint(formatting.score(row.gain, sign=True), tone)


def _reason(row: BoardRow) -> Line:
    """Return why a trial failed or was pruned; the state alone explains the others."""
    early = row.state in (State.FAILED, State.PRUNED) and row.reason
    return (("  ", ""), plain_part(row.reason, "dim")) if early else ()
