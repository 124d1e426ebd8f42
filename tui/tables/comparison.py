"""The comparison of trials, as lines for a panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.paint import Line, plain_part
from workbench import formatting
from workbench.service import Comparison
from workbench.store.answers import RowAnswer
from workbench.text import safe_line
from workbench.trial import Kind

if TYPE_CHECKING:  # numpy costs the screen 0.1 s at its start
    from workbench.verdict.types import Difference

MOST_ROWS = 20
"""Rows that are shown; `workbench compare --rows` shows more."""
_TEXT = 300
"""Characters shown of a question or an answer."""


def comparison_lines(found: Comparison) -> list[Line]:
    """Return settings that differ, scores with paired differences, and the rows in doubt."""
    names = ["base" if t.kind is Kind.BASE else f"trial {t.id}" for t in found.trials]
    lines: list[Line] = [((note, "warn"),) for note in found.notes]
    lines += _setting_lines(found, names)
    if found.scores:
        lines += [(), ((f"scores, and differences from {names[0]} on the same rows", "dim"),)]
    for score in found.scores:
        lines += [(), ((score.name, "bold"),)]
        for name, value, difference in zip(names, score.values, score.differences, strict=True):
            shown: Line = ((f"{name:<10}", ""), (f"{formatting.score(value):>8}", "accent"))
            lines.append((*shown, *_difference_parts(difference)))
    return lines + _row_lines(found, names)


def _setting_lines(found: Comparison, names: list[str]) -> list[Line]:
    if not found.settings:
        return [(("their settings are the same", "dim"),)]
    lines: list[Line] = []
    for key, values in found.settings.items():
        each = ", ".join(
            f"{name} {formatting.setting_text(value)}"
            for name, value, trial in zip(names, values, found.trials, strict=True)
            if trial.kind is not Kind.BASE
        )
        lines.append((plain_part(key, "dim", 60), ("  ", ""), plain_part(each)))
    return lines


def _difference_parts(one: Difference | None) -> Line:
    if one is None:
        return ()
    low, high = (formatting.score(end, sign=True) for end in (one.low, one.high))
    difference = formatting.score(one.difference, sign=True)
    return (
        (f"  {difference}", ""),
        (f" [{low}, {high}]  p {formatting.p_value(one.p)}", "dim"),
    )


def _row_lines(found: Comparison, names: list[str]) -> list[Line]:
    if not found.rows:
        return []
    rows = formatting.plural(len(found.rows), "row")
    lines: list[Line] = [(), ((f"they disagree on {found.disagreements} of {rows}", "bold"),)]
    for row in found.rows[:MOST_ROWS]:
        lines += [(), ((f"row {row.row}  ", "dim"), plain_part(row.question, "", _TEXT))]
        if row.expected:
            lines.append((("expected  ", "dim"), plain_part(row.expected, "", _TEXT)))
        for name, answer in zip(names, row.answers, strict=True):
            lines.append(((f"{name}  ", "dim"), *_answer_parts(answer)))
    return lines


def _answer_parts(answer: RowAnswer) -> Line:
    word, tone = {True: ("right", "good"), False: ("wrong", "bad"), None: ("", "")}[answer.right]
    loss = f"loss {formatting.score(answer.loss_sum / answer.targets)}" if answer.targets else ""
    about = "  ".join(part for part in (word, loss) if part)
    text = safe_line(answer.text or "", _TEXT)
    return ((f"{about}  " if about else "", tone), (text, ""))
