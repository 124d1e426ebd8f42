"""The text of a home in which nothing has run yet: the commands to begin with."""

from __future__ import annotations

from tui.paint import Line

WELCOME: tuple[Line, ...] = (
    (),
    (("  Nothing has run here yet.", "bold"),),
    (),
    (("  Leave with ", "dim"), ("q", "accent"), (" and start something:", "dim")),
    (),
    (("  workbench demo", "accent"), ("                    six small adapters, in minutes", "")),
    (("  workbench run recipes/….yaml", "accent"), ("      a recipe, shipped or your own", "")),
    (("  workbench check RECIPE", "accent"), ("            check its data and its memory", "")),
    (("  workbench doctor", "accent"), ("                  check this machine", "")),
    (),
    (("  Then come back with ", "dim"), ("workbench", "accent"), (".", "dim")),
    (("  Training goes on while you are away.", "dim"),),
)
