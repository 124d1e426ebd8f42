"""The comparison of trials as lines: settings and scores in columns, and the rows in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tui.paint import Line, cut_text, fit_line, plain_part
from workbench import formatting
from workbench.service import Comparison, TrialRow
from workbench.store.answers import RowAnswer
from workbench.text import safe_line
from workbench.trial import Kind

if TYPE_CHECKING:  # numpy costs the screen 0.1 s at its start
    from workbench.verdict.types import Difference

MOST_ROWS = 20
"""Rows that are shown; `workbench compare --rows` shows more."""
_TEXT = 300
"""Characters shown of a question or an answer."""
_KEY, _CELL = 22, 9
"""Cells of a setting's name at most, and of a trial's column at least."""


def names_of(trials: Sequence[TrialRow]) -> list[str]:
    """Return a short name of each trial: `#12`, or `base`."""
    return ["base" if trial.kind is Kind.BASE else f"#{trial.id}" for trial in trials]


def setting_lines(found: Comparison, cells: int) -> list[Line]:
    """Return a table of the settings that differ, a column for each trial, `cells` wide.

    Where the columns do not fit, each setting is one line of names and values.
    """
    if not found.settings:
        return [((found.no_settings_words, "dim"),)]
    names = names_of(found.trials)
    key_cells = min(_KEY, max(len(formatting.short_key(key)) for key in found.settings) + 1)
    width = (cells - key_cells) // len(names)
    if width < _CELL:
        return [_listed(key, values, names) for key, values in found.settings.items()]
    width = min(width, 16)
    head: Line = (
        (" " * key_cells, ""),
        *((f"{name:>{width}}", "bold") for name in names),
    )
    rows: list[Line] = [head]
    for key, values in found.settings.items():
        texts = [
            _value_text(value, trial) for value, trial in zip(values, found.trials, strict=True)
        ]
        short = cut_text(safe_line(formatting.short_key(key)), key_cells - 1)
        rows.append(
            (
                (f"{short:<{key_cells}}", "dim"),
                *((f"{cut_text(text, width - 1):>{width}}", "") for text in texts),
            )
        )
    return rows


def _value_text(value: Any, trial: TrialRow) -> str:
    return "·" if trial.kind is Kind.BASE else safe_line(formatting.setting_text(value), 60)


def _listed(key: str, values: Sequence[Any], names: Sequence[str]) -> Line:
    pairs = zip(names, values, strict=True)
    each = ", ".join(
        f"{name} {formatting.setting_text(value)}" for name, value in pairs if name != "base"
    )
    return (plain_part(key, "dim", 60), ("  ", ""), plain_part(each))


def score_lines(found: Comparison) -> list[Line]:
    """Return each score of every trial, with its paired difference from the first trial."""
    lines: list[Line] = [((note, "warn"),) for note in found.notes]
    names = names_of(found.trials)
    if found.scores:
        lines.append(((f"differences from {names[0]}, on the same rows", "dim"),))
    longest = max(map(len, names))
    for score in found.scores:
        lines += [(), ((score.name, "bold"),)]
        for name, value, difference in zip(names, score.values, score.differences, strict=True):
            shown: Line = ((f"{name:<{longest}}", ""), (f"{formatting.score(value):>7}", "accent"))
            lines.append((*shown, *_difference_parts(difference)))
    return lines or [(("none of them has a score yet", "dim"),)]


def _difference_parts(one: Difference | None) -> Line:
    if one is None:
        return ()
    low, high = (formatting.score(end, sign=True) for end in (one.low, one.high))
    difference = formatting.score(one.difference, sign=True)
    return (
        (f"  {difference}", "bold" if one.significant else ""),
        (f" [{low}, {high}]  p {formatting.p_value(one.p)}", "dim"),
    )


def row_title(found: Comparison) -> str:
    """Return the title of the trials' answers: on how many rows they disagree."""
    if not found.rows:
        return "Answers"
    return f"Answers · {found.rows_words}"


def row_lines(found: Comparison) -> list[Line]:
    """Return the rows on which one is right and another wrong first, with every answer."""
    if not found.rows:
        return [(("no held-out row was answered by all of them", "dim"),)]
    names = names_of(found.trials)
    lines: list[Line] = []
    for row in found.rows[:MOST_ROWS]:
        lines += [(), ((f"row {row.row}  ", "dim"), plain_part(row.question, "", _TEXT))]
        if row.expected:
            lines.append((("expected  ", "dim"), plain_part(row.expected, "", _TEXT)))
        for name, answer in zip(names, row.answers, strict=True):
            lines.append((*fit_line(((name, "dim"),), 8), *_answer_parts(answer)))
    if (left := len(found.rows) - MOST_ROWS) > 0:
        ids = " ".join(str(trial.id) for trial in found.trials)
        command = f"workbench compare {ids} --rows {len(found.rows)}"
        lines += [(), ((f"and {left} more: {command}", "dim"),)]
    return lines[1:]


def _answer_parts(answer: RowAnswer) -> Line:
    word, tone = {True: ("right", "good"), False: ("wrong", "bad"), None: ("", "")}[answer.right]
    loss = f"loss {formatting.score(answer.loss_sum / answer.targets)}" if answer.targets else ""
    about = "  ".join(part for part in (word, loss) if part)
    text = safe_line(answer.text or "", _TEXT)
    return ((f"{about}  " if about else "", tone), (text, ""))
