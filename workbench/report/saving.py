"""A report's file on the disk."""

from __future__ import annotations

from pathlib import Path

from workbench.errors import UsageError
from workbench.machine.files import output_file, write_durably
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

    A symbolic link stays, and the file behind it is written. Raises UsageError for what is no
    regular file, such as a device, and where the file cannot be written: there is no such folder,
    for example.
    """
    file = output_file(path)
    try:
        write_durably(file, text.encode())
    except OSError as broken:
        raise UsageError(
            f"{safe_line(path)} cannot be written: {broken.strerror}", hint="name another file"
        ) from broken
