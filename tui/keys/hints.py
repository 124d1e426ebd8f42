"""The key that does what a hint advises, for error panels and the page of a failed trial."""

from __future__ import annotations

import re

from tui.keys.keymap import Keymap

_APPLIED = (
    (r"\b(?:lower|raise|set) [a-z_]+\.[a-z_]+", "trial.clone", "clones the trial with it"),
    (r"workbench clone\b", "trial.clone", "clones the trial"),
    (r"workbench add\b", "trial.add", "adds a trial"),
    (r"workbench (?:undrain|cards)\b", "go.cards", "goes to Cards"),
    (r"workbench engine start\b", "engine", "starts the engine"),
    (r"workbench doctor\b", "doctor", "checks this machine"),
    (r"workbench (?:demo|run)\b", "new", "begins a run"),
    (r"workbench ls\b", "go.trials", "goes to Trials"),
    (r"workbench board\b|of the board\b", "go.board", "goes to the Board"),
    (r"workbench repair\b", "leave", "leaves the screen, for a shell"),
)
"""Patterns of hints, the row of the key table that applies them, and what it does."""
_AGAIN = "asks again, with what you typed"


def hinted_row(hint: str) -> tuple[str, str] | None:
    """Return the row of the key table that applies a hint, and what it does; None where none does.

    The first pattern of the table that is found decides.
    """
    found = (row for row in _APPLIED if re.search(row[0], hint))
    return next(((id, words) for _, id, words in found), None)


def repeated_row(verb: str, keymap: Keymap, place: str) -> tuple[str, str] | None:
    """Return the row that asks at a place for what was typed for a request; None for others.

    What was typed is kept until the request succeeds.
    """
    action = "app.new_run" if verb == "submit" else f"input('{verb}')"
    rows = (row for row in keymap.rows_for(place) if row.action == action)
    return next(((row.id, _AGAIN) for row in rows), None)
