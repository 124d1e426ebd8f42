"""The board as rows: who is best, by how much, with which settings."""

from __future__ import annotations

from collections.abc import Sequence

from tui import present
from tui.paint import Line, cut_to, plain
from tui.widgets.rowlist import Column, Row
from workbench.service import BoardRow
from workbench.trial import State

_WIDEST = 14
_HEADS = {"exact_match": "exact", "token_accuracy": "tokens", "perplexity": "ppl"}


def differing(rows: Sequence[BoardRow]) -> list[str]:
    """Dotted keys that the trials set, in the order they are first met."""
    keys: dict[str, None] = {}
    for row in rows:
        keys.update(dict.fromkeys(row.settings))
    return list(keys)


def columns(rows: Sequence[BoardRow], rank_by: str) -> tuple[Column, ...]:
    keys = differing(rows)
    return (
        Column(title="", width=3, right=True),
        Column(title="trial", width=5),
        Column(title=_HEADS.get(rank_by, rank_by), width=7, right=True),
        Column(title="over base", width=9, right=True),
        *(_setting_column(key, rows, 4 + n) for n, key in enumerate(keys)),
        Column(title="tok/s", width=6, right=True, drop=2),
        Column(title="peak", width=8, right=True, drop=3),
        Column(title="wall", width=10, right=True, drop=40),
        *([Column(title="energy", width=8, right=True, drop=41)] if _metered(rows) else []),
        Column(title="state", width=10, grow=1),
    )


def _metered(rows: Sequence[BoardRow]) -> bool:
    return any(row.energy_wh is not None for row in rows)


def _setting_column(key: str, rows: Sequence[BoardRow], drop: int) -> Column:
    texts = [present.short_key(key), *(present.value(row.settings.get(key)) for row in rows)]
    return Column(
        title=cut_to(texts[0], _WIDEST),
        width=min(_WIDEST, max(len(text) for text in texts)),
        right=True,
        drop=drop,
    )


def rows(board: Sequence[BoardRow], rank_by: str) -> list[Row]:
    keys = differing(board)
    better = (one.trial for one in board if one.rank == 1 and (one.gain is None or one.gain > 0))
    best = next(better, None)
    metered = _metered(board)
    return [_row(row, keys, rank_by, row.trial == best, metered) for row in board]


def _row(row: BoardRow, keys: Sequence[str], rank_by: str, best: bool, metered: bool) -> Row:
    base = row.kind == "base"
    tone = "dim" if base else ""
    settings: list[Line] = [
        ((present.value(row.settings[key]) if key in row.settings else "·", tone),) for key in keys
    ]
    return Row(
        row.trial,
        (
            (("★ " if best else "", "accent"), (str(row.rank or ""), "bold" if best else "")),
            (("base" if base else f"#{row.trial}", "bold" if best else tone),),
            _known(present.score(row.score, rank_by), "bold" if best else tone),
            _gain(row, rank_by),
            *settings,
            _known(present.rate(row.tokens_per_s), tone),
            _known(present.gib(row.peak_bytes), tone),
            _known(present.span(row.wall_s), tone),
            *([_known(present.energy(row.energy_wh), tone)] if metered else []),
            (*present.state_word(row.state), *_why(row)),
        ),
    )


def _known(text: str, tone: str) -> Line:
    return ((text, "faint" if text == present.NONE else tone),)


def _gain(row: BoardRow, rank_by: str) -> Line:
    if row.kind == "base":
        return (("the base", "dim"),)
    if row.gain is None:
        return ((present.NONE, "faint"),)
    return ((present.score_gain(row.gain, rank_by), "good" if row.gain > 0 else "bad"),)


def _why(row: BoardRow) -> Line:
    """Of a failed one, and of one that ended early; that others were stopped says it all."""
    early = row.state in (State.FAILED, State.PRUNED) and row.reason
    return (("  ", ""), plain(row.reason, "dim")) if early else ()
