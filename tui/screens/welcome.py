"""The text of a home in which nothing has run yet: three steps to a first run of one's own."""

from __future__ import annotations

from tui.keys.keymap import Keymap
from tui.paint import Line


def welcome_lines(keymap: Keymap) -> list[Line]:
    """Return the three steps with the keys that take them, and what to know before leaving."""
    new, leave = keymap.shown_key("new"), keymap.shown_key("leave")
    return [
        (),
        (("  Nothing has run here yet. Three steps to a first run:", "bold"),),
        (),
        _step(1, keymap.shown_key("doctor"), "", "checks this machine: cards, libraries, disk"),
        _step(2, new, "↓ to demo", "trains six small adapters, in minutes"),
        _step(3, new, "↓ to your recipe", "shows what each card would take; enter starts it"),
        (),
        (("  ctrl+k on that page reads your data as training would see it.", "dim"),),
        (("  Training goes on when you leave with ", "dim"), (leave, "accent"), (".", "dim")),
    ]


def _step(number: int, key: str, choice: str, what: str) -> Line:
    """Return a step: its key, what to choose then, and what that does."""
    then: Line = ((" then ", "dim"), (choice, "accent")) if choice else ()
    return ((f"  {number}  ", "dim"), (key, "accent"), *then, (f"  {what}", ""))
