"""The finals of an experiment as lines below its board."""

from __future__ import annotations

from collections.abc import Sequence

from tui.paint import Line, fit_line, join_lines, plain_part
from tui.widgets.columns import GAP, Column, arrange_columns
from workbench.judging import board_words, finals_words
from workbench.service import Baseline
from workbench.store.board_rows import JudgedBoard
from workbench.trial import up_is_better

_DROPPED = {"vs base": 2, "vs best": 1}
"""Columns that a narrow screen loses, the highest number first."""
_SETTINGS = 16
"""Cells that the settings keep at least; they come last and are cut."""


def finals_lines(board: JudgedBoard, cells: int, baseline: Baseline | None = None) -> list[Line]:
    """Return title, heads and a line for each finalist, at most `cells` wide; empty without finals.

    Then come the sentences about seeds that are not averaged. Differences are from `baseline` where
    one is pinned, and else from the best finalist.
    """
    if not board.finals:
        return []
    up = up_is_better(board.experiment.rank_by)
    heads = list(finals_words.HEADS)
    table = [
        [
            str(cell)
            for cell in finals_words.finalist_cells(
                row, board.finals, higher_is_better=up, short_keys=True
            )
        ]
        for row in board.finals
    ]
    if baseline is not None:
        at = heads.index("vs best")
        heads[at] = f"vs #{baseline.trial}"
        for row, texts in zip(board.finals, table, strict=True):
            texts[at] = board_words.gain_text(baseline.finals.get(row.trial), up)
    columns = [_column(n, heads, table) for n in range(len(heads))]
    widths = arrange_columns(columns, cells)
    tones = ["dim", *("bold" if row.rank == 1 else "" for row in board.finals)]
    lines = [
        _line(one, columns, widths, tone) for one, tone in zip([heads, *table], tones, strict=True)
    ]
    notes = finals_words.seed_notes(board.finals)
    return [
        ((finals_words.TITLE, "head"),),
        *(fit_line(line, cells) for line in lines),
        *((plain_part(note, "dim"),) for note in notes),
    ]


def _column(n: int, heads: Sequence[str], table: Sequence[Sequence[str]]) -> Column:
    head, last = heads[n], n == len(heads) - 1
    widest = max(len(text) for text in (head, *(row[n] for row in table)))
    return Column(
        title=head,
        width=min(widest, _SETTINGS) if last else widest,
        grow=int(last),
        drop=_DROPPED.get(head, 0),
        right=not last,
    )


def _line(
    texts: Sequence[str], columns: Sequence[Column], widths: Sequence[int | None], tone: str
) -> Line:
    return join_lines(
        (
            fit_line((plain_part(text, tone),), width, "right" if column.right else "left")
            for text, column, width in zip(texts, columns, widths, strict=True)
            if width is not None
        ),
        (" " * GAP, ""),
    )
