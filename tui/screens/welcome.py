"""The text of a home in which nothing has run yet: three steps to a first run of one's own."""

from __future__ import annotations

from tui.paint import Line


def _step(number: int, key: str, choice: str, what: str) -> Line:
    """Return a step: its key or command, what to choose then, and what that does."""
    then: Line = ((" then ", "dim"), (choice, "accent")) if choice else ()
    return ((f"  {number}  ", "dim"), (key, "accent"), *then, (f"  {what}", ""))


WELCOME: tuple[Line, ...] = (
    (),
    (("  Nothing has run here yet. Three steps to a first run:", "bold"),),
    (),
    _step(1, "workbench doctor", "", "in a shell: checks this machine"),
    _step(2, "n", "demo", "trains six small adapters, in minutes"),
    _step(3, "n", "your recipe", "shows what each card would take; enter starts it"),
    (),
    (("  ctrl+k on that page reads your data as training would see it.", "dim"),),
    (("  Training goes on when you leave with ", "dim"), ("q", "accent"), (".", "dim")),
)
