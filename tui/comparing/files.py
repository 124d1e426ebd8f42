"""Writing a board to a file whose ending says what it is."""

from __future__ import annotations

from pathlib import Path

from tui.messages import BoardWritten
from tui.paint import Line
from tui.poller import Question
from workbench.errors import UsageError
from workbench.service import Service
from workbench.text import safe_line

EXAMPLES: list[Line] = [
    (("report.html", "accent"), ("  the whole report, which any browser opens", "dim")),
    (("board.csv", "accent"), ("    all digits, for spreadsheets", "dim")),
    (("board.md", "accent"), ("     a table in Markdown", "dim")),
]
"""What the panel says about the endings."""


def write_board(experiment: int, typed: str) -> Question:
    """Write the board of an experiment to the file that was typed, relative to where we started.

    The question raises UsageError for another ending than .html, .csv and .md, for a file that
    exists already, and where it cannot be written.
    """

    def question(service: Service) -> BoardWritten:
        from workbench.report.board_files import csv_text, markdown_text
        from workbench.report.saving import save_text

        path = Path(typed).expanduser()
        if path.is_file():
            raise UsageError(f"{safe_line(typed)} exists already", hint="type another name")
        kind = path.suffix.lower()
        if kind in (".html", ".htm"):
            text = _report(service, experiment)
        elif kind == ".csv":
            text = csv_text(service.judged_board(experiment)) + "\n"
        elif kind == ".md":
            text = markdown_text(service.judged_board(experiment)) + "\n"
        else:
            raise UsageError(
                f"the ending of {safe_line(typed)} says no format",
                hint="end it in .html, .csv or .md",
            )
        save_text(text, path)
        return BoardWritten(str(path.absolute()))

    return question


def _report(service: Service, experiment: int) -> str:
    from workbench.report.facts import gather_facts
    from workbench.report.page import build_page

    return build_page(gather_facts(service, experiment))
