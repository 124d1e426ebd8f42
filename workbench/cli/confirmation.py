"""The question that a command asks before it removes something: a word, typed again."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.errors import UsageError, WorkbenchError
from workbench.text import safe_line, shell_word


def confirm_name(word: str, command: str, names: Sequence[str], *, verb: str, done: str) -> None:
    """Ask for `word` to be typed before `command` does with its arguments `names` what `verb` says.

    Raises as `confirm_word` does.
    """
    without = f"workbench {command} --yes {' '.join(map(shell_word, names))}"
    confirm_word(word, f"{verb} it", without=without, done=done)


def confirm_word(word: str, purpose: str, *, without: str, done: str) -> None:
    """Ask on stderr for `word` to be typed to `purpose`.

    Raises UsageError at the end of stdin, with the command `without` the question, and
    WorkbenchError for another word. Both say that nothing was `done`.
    """
    sys.stderr.write(f"type {safe_line(word)} to {purpose}: ")
    sys.stderr.flush()
    typed = sys.stdin.readline()
    if not typed:
        sys.stderr.write("\n")  # the error begins a line of its own
        raise UsageError(f"{safe_line(word)} was not typed; nothing was {done}", hint=without)
    if typed.strip() != word:
        raise WorkbenchError(f"what was typed is not {safe_line(word)}; nothing was {done}")
