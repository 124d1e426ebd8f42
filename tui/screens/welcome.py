"""What a newcomer is told while nothing has run."""

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
    (("  workbench check RECIPE", "accent"), ("            does its data train, will it fit?", "")),
    (("  workbench doctor", "accent"), ("                  what this machine can do", "")),
    (),
    (("  Then come back with ", "dim"), ("workbench", "accent"), (".", "dim")),
    (("  Training goes on while you are away.", "dim"),),
)
