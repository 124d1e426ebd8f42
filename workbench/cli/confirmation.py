"""The question that a command asks before it removes something: its name, typed again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.errors import UsageError, WorkbenchError
from workbench.text import safe_line


def confirm_name(word: str, command: str, names: Sequence[str], *, verb: str, done: str) -> None:
    """Ask on stderr for `word` to be typed again before `command` does what `verb` says.

    `names` are the command's arguments. Raises UsageError at the end of stdin, with the command
    that does not ask, and WorkbenchError, which says that nothing was `done`, for another word.
    """
    sys.stderr.write(f"type {safe_line(word)} to {verb} it: ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    if not typed:
        raise UsageError(
            f"{command} needs the name typed again",
            hint=f"workbench {command} --yes {' '.join(map(safe_line, names))}",
        )
    if typed.strip() != word:
        raise WorkbenchError(f"what was typed is not {safe_line(word)}; nothing was {done}")
