"""`workbench board`: an experiment's adapters, ranked, with intervals and the verdict."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from workbench import formatting
from workbench.cli.arguments import ExperimentOrNewest, Json
from workbench.cli.revival import revive_engine
from workbench.cli.tables import as_json, out_table, print_answer, print_note, terminal_width
from workbench.cli.trials.listing import chosen_experiment
from workbench.errors import UsageError
from workbench.judging import board_words, finals_words
from workbench.report.board_files import csv_text, markdown_text
from workbench.service import Service
from workbench.store.board_rows import BoardRow, JudgedBoard
from workbench.text import safe_line
from workbench.trial import up_is_better

WIDE = 130
"""Columns from which the intervals of differences are shown too."""
NARROW = 100
"""Columns below which settings have the usual abbreviations, such as `lr`."""


def board_command(
    experiment: ExperimentOrNewest = None,
    csv: Annotated[
        bool,
        typer.Option("--csv", help="Print CSV with all digits. The verdict goes to stderr."),
    ] = False,
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Print a Markdown table. Its last line is the verdict."),
    ] = False,
    as_data: Json = False,
) -> None:
    """Rank an experiment's adapters with intervals, and say which is best; the newest by default.

    The last line is the verdict. In JSON it stands in the first row, as `verdict`.
    """
    if csv + markdown + as_data > 1:
        raise UsageError("--csv, --markdown and --json exclude each other", hint="give one of them")
    service = Service()
    revive_engine(service)
    board = service.judged_board(chosen_experiment(service, experiment))
    if as_data:
        as_json(board_data(board))
    elif csv:
        print_answer(csv_text(board))
        print_note(board.verdict)
    elif markdown:
        print_answer(markdown_text(board))
    else:
        print_board(board)


def board_data(board: JudgedBoard) -> list[dict[str, Any]]:
    """Return the board as JSON rows without the base, those tied for first before the others.

    The first row holds the verdict as `verdict` and the finals as `finals`, which are null in the
    others.
    """
    rows = [asdict(row) for row in board.rows if row.kind != "base"]
    finals = [asdict(row) for row in board.finals]
    return [
        {**row, "verdict": None if n else board.verdict, "finals": None if n else finals}
        for n, row in enumerate(rows)
    ]


def print_board(board: JudgedBoard) -> None:
    """Print the ranked table, then what its marks mean and what is missing, and the verdict."""
    experiment, width = board.experiment, terminal_width()
    if not board.rows:
        why = safe_line(experiment.reason) or f"it is {experiment.state}"
        print_answer(f"{safe_line(experiment.name)} has no trials: {why}")
        return
    rule = formatting.ranking_rule(experiment.rank_by)
    print_answer(f"{safe_line(experiment.name)}, by {rule}", "bold")
    lines = [_cells(row, board, width) for row in board.rows]
    numbers = ("vs base", "vs best", "step", "tok/s", "peak", "time", "energy")
    right = ("rank", "trial", "score", *numbers)
    heads = ("rank", "trial", "state", "score", "95 %", *numbers, "settings")
    optional = ("tok/s", "energy", "time", "peak", "step", "95 %", "vs best")
    out_table(heads, lines, right=right, optional=optional, dear=("95 %", "vs best"))
    for note in board_words.footnotes(board):
        print_answer(note)
    if board.finals:
        _print_finals(board)
    print_answer(board.verdict, "bold")


def _print_finals(board: JudgedBoard) -> None:
    """Print a table of the finalists, and which of their seeds are not averaged."""
    print_answer()
    print_answer(finals_words.TITLE, "bold")
    up, short = up_is_better(board.experiment.rank_by), terminal_width() < NARROW
    lines = [
        finals_words.finalist_cells(row, board.finals, higher_is_better=up, short_keys=short)
        for row in board.finals
    ]
    right = ("rank", "trial", "mean", "vs base", "vs best", "seeds", "ships")
    out_table(finals_words.HEADS, lines, right=right, optional=("vs best", "vs base", "95 %"))
    for note in finals_words.seed_notes(board.finals):
        print_answer(note)


def _kept_step(row: BoardRow, board: JudgedBoard) -> str:
    """Return the step of the weights that were kept; a dash where it is the same for all trials."""
    steps = {one.score_step for one in board.rows if one.kind != "base" and one.score_step}
    return str(row.score_step) if len(steps) > 1 and row.score_step else "-"


def _cells(row: BoardRow, board: JudgedBoard, width: int) -> tuple[object, ...]:
    up = up_is_better(board.experiment.rank_by)
    gain = formatting.score(row.gain, sign=True)
    if row.vs_base is not None:
        gain = board_words.gain_text(row.vs_base, up, interval=width >= WIDE)
    return (
        board_words.rank_text(row, board.rows),
        row.trial,
        formatting.outcome_word(row.state, row.reason),
        board_words.score_text(row),
        board_words.interval_text(row),
        gain,
        board_words.gain_text(row.vs_leader, up, interval=width >= WIDE),
        _kept_step(row, board),
        formatting.rate(row.tokens_per_s),
        formatting.size(row.peak_bytes),
        formatting.duration(row.wall_s),
        formatting.energy(row.energy_wh),
        "the base, untrained"
        if row.kind == "base"
        else formatting.brief_settings(row.settings, short_keys=width < NARROW),
    )


def board_answer(board: JudgedBoard) -> dict[str, Any]:
    """Return the board and its verdict as parts of a larger JSON answer."""
    return {"board": board_data(board), "verdict": board.verdict}
