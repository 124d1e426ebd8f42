"""The importance of a sweep's settings, as lines."""

from __future__ import annotations

from tui.paint import Line, cut_text, plain_part
from workbench import formatting
from workbench.importance import Importance
from workbench.service import ImportanceReport

_WIDEST = 16
"""Cells of a setting's name at most."""


def importance_lines(report: ImportanceReport) -> list[Line]:
    """Return a line for each setting with its importance, or why there is none yet."""
    counted = formatting.used_trials(report.trials, report.left_out)
    head: Line = (plain_part(report.experiment, "bold", 40), (f": {counted}", "dim"))
    if not report.enough:
        few = f"Too few trials: at least {report.least} must finish with a score or end early."
        return [head, (), ((few, ""),)]
    if not report.settings:
        return [head, (), (("The trials differ in no setting.", ""),)]
    names = [cut_text(formatting.short_key(one.key), _WIDEST) for one in report.settings]
    widest = max(len(name) for name in names)
    lines = [
        _importance_line(f"{name:<{widest}}", one)
        for name, one in zip(names, report.settings, strict=True)
    ]
    key = (
        "The share of the differences in rank that each setting explains by itself, its 90 % "
        "bootstrap interval, and the value that ranked best."
    )
    return [head, (), *lines, (), ((key, "dim"),)]


def _importance_line(name: str, one: Importance) -> Line:
    interval = f"{formatting.percent(one.low)} to {formatting.percent(one.high)}"
    if not one.sure:
        end: Line = ((formatting.not_significant(one.chance), "dim"),)
    else:
        end = (("best ", "dim"), plain_part(one.best, "bold", 20))
    return (
        (f"{name}  ", ""),
        (f"{formatting.percent(one.share):>4}", "accent"),
        (f"  {interval:<12}  ", "dim"),
        *end,
    )
