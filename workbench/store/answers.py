"""Generated answers with their questions, read from the files that workers wrote.

Texts are foreign: they are returned as they are, and callers escape them where they show them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.attempts.results_file import (
    ResultsHead,
    check_digest,
    questions_path,
    read_head,
    read_lines,
    results_path,
)
from workbench.errors import NotThere
from workbench.text import safe_line


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAnswer:
    """The result of one model on one held-out row, with the texts.

    Texts have at most results_file.MOST_CHARACTERS characters, and end in `…` where they were cut.
    """

    row: int
    """The row's number among the held-out rows, from 0."""
    question: str
    expected: str
    """The two are empty where the file of the evaluation set is gone."""
    text: str | None
    """The generated answer; None where none was generated."""
    extracted: str | None
    """The part of the answer that was compared; None where the answer pattern did not match."""
    right: bool | None
    """None for a row that cannot be scored."""
    tokens: int | None
    """Tokens that were generated, with the one that ended the answer."""
    ended_by: str | None
    """"end" for an answer that the model ended, "length" for one cut at evaluate.max_new_tokens."""
    loss_sum: float
    """Nats, summed over the row's target tokens."""
    targets: int
    """Target tokens of the row."""


def read_answers(home: Path, trial: int, evaluation: str) -> list[RowAnswer]:
    """Return the results of a trial on every row of an evaluation set, in the set's order.

    `evaluation` is the set's digest, as in RowResults. Takes about 10 ms for 500 rows. Raises
    NotThere where the trial has no results of that set, or their file is damaged.
    """
    path = results_path(home / "trials" / str(int(trial)), _digest(evaluation, trial))
    try:
        head = read_head(path)
        answers = {
            int(line["row"]): line for line in read_lines(path) if isinstance(line.get("row"), int)
        }
    except FileNotFoundError:
        raise _not_there(trial, "are not there") from None
    except (OSError, EOFError, ValueError, zlib.error) as broken:
        raise _not_there(trial, f"cannot be read: {safe_line(broken, 200)}") from broken
    asked = _questions(questions_path(home, evaluation), len(head.targets))
    return [_answer(head, row, asked[row], answers.get(row, {})) for row in range(len(asked))]


def _digest(evaluation: str, trial: int) -> str:
    try:
        return check_digest(evaluation)
    except ValueError:
        raise _not_there(trial, "are not there") from None


def _not_there(trial: int, what: str) -> NotThere:
    return NotThere(
        f"the results of trial {trial} row by row {what}",
        hint=f"score it again: workbench evaluate {trial}",
    )


def _questions(path: Path, rows: int) -> list[dict[str, Any]]:
    """Return question and expected answer of each row; empty ones where the file is no use."""
    try:
        found = list(read_lines(path))
    except (OSError, EOFError, ValueError, zlib.error):
        found = []
    return found if len(found) == rows else [{} for _ in range(rows)]


def _answer(head: ResultsHead, row: int, asked: dict[str, Any], given: dict[str, Any]) -> RowAnswer:
    right, tokens = given.get("right"), given.get("tokens")
    return RowAnswer(
        row=row,
        question=_text(asked.get("question")) or "",
        expected=_text(asked.get("expected")) or "",
        text=_text(given.get("text")),
        extracted=_text(given.get("extracted")),
        right=right if isinstance(right, bool) else None,
        tokens=tokens if isinstance(tokens, int) else None,
        ended_by=_text(given.get("ended_by")),
        loss_sum=head.sums["loss"][row],
        targets=head.targets[row],
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
