"""Which settings of a sweep mattered, as lines."""

from __future__ import annotations

from tui.paint import Line, plain
from tui.present import short_key
from workbench.importance import Importance
from workbench.service import ImportanceReport


def lines(report: ImportanceReport) -> list[Line]:
    told: Line = (plain(report.experiment, "bold", 40), (f", by {report.trials} trials", "dim"))
    if not report.enough:
        few = f"Too few to tell: it takes {report.least} that were scored or ended early."
        return [told, (), ((few, ""),)]
    if not report.settings:
        return [told, (), (("They differ in no setting.", ""),)]
    key = (
        "Share of the differences in rank that each setting explains on its own, where nine of "
        "ten bootstrap samples lie, and the value that did best."
    )
    return [told, (), *(_line(one) for one in report.settings), (), ((key, "dim"),)]


def _line(one: Importance) -> Line:
    name = short_key(one.key)[:22]
    spread = f"{one.low:.0%} to {one.high:.0%}"
    if not one.sure:
        end: Line = ((f"not told from chance (p {one.chance:.2f})", "dim"),)
    else:
        end = (("best ", "dim"), plain(one.best, "bold", 20))
    return (
        plain(f"{name:<23}"),
        (f"{one.share:>4.0%}", "accent"),
        (f"  {spread:<13}", "dim"),
        *end,
    )
