"""The board as text for other programs: CSV for spreadsheets, a Markdown table for documents."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from workbench import formatting
from workbench.judging import board_words, finals_words
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.text import safe_line
from workbench.trial import up_is_better

_PLAIN = (
    *("rank", "trial", "kind", "state", "tied_for_first", "score", "score_low", "score_high"),
    *("score_rows", "score_approximate", "score_step", "optimism"),
)
_COSTS = ("tokens_per_s", "peak_bytes", "wall_s", "energy_wh", "adapter", "score_note", "reason")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet would run as a formula."""


def csv_text(board: JudgedBoard) -> str:
    """Return the board as CSV with a head line, all digits, and the base in the last line.

    Missing values are empty cells. Settings and further scores have a column each.
    """
    rows = [_csv_row(row) for row in board.rows]
    heads = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def _csv_row(row: BoardRow) -> dict[str, object]:
    data = asdict(row)
    cells: dict[str, Any] = {key: data[key] for key in _PLAIN}
    for name in ("vs_base", "vs_leader"):
        parts = data[name] or dict.fromkeys(("difference", "low", "high", "p"))
        cells |= {f"{name}_{part}": value for part, value in parts.items()}
    cells |= {f"scores.{name}": value for name, value in sorted(row.scores.items())}
    cells |= {key: formatting.setting_text(value) for key, value in row.settings.items()}
    cells |= {key: data[key] for key in _COSTS}
    return {safe_line(key): _csv_cell(value) for key, value in cells.items()}


def _csv_cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = safe_line(value)
    # A spreadsheet runs such a cell as a formula; a leading apostrophe makes it text.
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown_text(board: JudgedBoard) -> str:
    """Return a heading, the table, the notes as a list, and the verdict as the last line."""
    experiment = board.experiment
    up = up_is_better(experiment.rank_by)
    heads = ("rank", "trial", "state", experiment.rank_by, "95 %", "vs base", "vs best", "settings")
    lines = [
        f"**{_markdown(experiment.name)}**, by {formatting.ranking_rule(experiment.rank_by)}",
        "",
        _table_line(heads),
        _table_line(["---:", "---:", "---", "---:", "---:", "---:", "---:", "---"]),
        *(_table_line(_markdown_cells(row, board, up)) for row in board.rows),
        "",
    ]
    notes = [f"* {_markdown(note)}" for note in board_words.footnotes(board)]
    notes += [f"* {_markdown(note)}" for note in finals_words.seed_notes(board.finals)]
    lines += _finals_lines(board, up) if board.finals else []
    return "\n".join([*lines, *([*notes, ""] if notes else []), f"**{_markdown(board.verdict)}**"])


def _finals_lines(board: JudgedBoard, up: bool) -> list[str]:
    """Return the table of the finalists, with a heading before and an empty line behind it."""
    cells = [
        finals_words.finalist_cells(row, board.finals, higher_is_better=up, short_keys=False)
        for row in board.finals
    ]
    return [
        f"**{finals_words.TITLE}**",
        "",
        _table_line(finals_words.HEADS),
        _table_line(["---:"] * (len(finals_words.HEADS) - 1) + ["---"]),
        *map(_table_line, cells),
        "",
    ]


def _markdown_cells(row: BoardRow, board: JudgedBoard, up: bool) -> Sequence[object]:
    base = row.kind == "base"
    return (
        board_words.rank_text(row, board.rows),
        row.trial,
        formatting.outcome_word(row.state, row.reason),
        board_words.score_text(row),
        board_words.interval_text(row),
        board_words.gain_text(row.vs_base, up, interval=True),
        board_words.gain_text(row.vs_leader, up, interval=True),
        "the base, untrained" if base else formatting.brief_settings(row.settings),
    )


def _table_line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(value: object) -> str:
    """Return foreign text on one line without a meaning in Markdown or HTML."""
    text = safe_line(value)
    for character in "\\|*_`<>[]#~":
        text = text.replace(character, "\\" + character)
    return text
