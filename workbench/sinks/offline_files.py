"""Offline files of Weights & Biases: which of them are whole.

Its library writes them in blocks, so that a process that was killed leaves a file without its last
steps. A file that was closed has a note beside it with its last step; any other is removed, and its
steps are written again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.machine.files import write_durably

NOTE = "last-step"


def remove_unfinished(folder: Path, run: str) -> int:
    """Remove the run's files that were not closed; return the last step in the others, or -1."""
    last = -1
    for found in folder.glob(f"offline-run-*-{run}"):
        try:
            last = max(last, int((found / NOTE).read_text()))
        except (OSError, ValueError):
            shutil.rmtree(found, ignore_errors=True)
    return last


def note_closed(folder: Path, last_step: int) -> None:
    """Write down that the file in `folder` was closed, with the last step in it."""
    write_durably(folder / NOTE, str(last_step).encode())
