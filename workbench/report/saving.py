"""A report's file on the disk."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import UsageError
from workbench.machine.files import write_durably
from workbench.report.facts import ReportFacts
from workbench.report.page import build_page
from workbench.text import safe_line


def save_report(facts: ReportFacts, path: Path) -> None:
    """Write the report of gathered facts to a file, which is replaced where it exists.

    Raises UsageError where the file cannot be written: there is no such folder, for example.
    """
    save_text(build_page(facts), path)


def save_text(text: str, path: Path) -> None:
    """Write a text to a file, which is replaced where it exists.

    Raises UsageError where the file cannot be written: there is no such folder, for example.
    """
    name = safe_line(path)
    if path.is_dir():
        raise UsageError(f"{name} is a folder", hint=f"name a file in it: {name}/report.html")
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {safe_line(path.parent)}", hint="create it, or name another file"
        )
    try:
        write_durably(path, text.encode())
    except OSError as broken:
        raise UsageError(
            f"{name} cannot be written: {broken.strerror}", hint="name another file"
        ) from broken
