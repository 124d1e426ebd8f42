"""The command line: `workbench COMMAND …`.

`app` registers the commands of the packages `recipes`, `trials` and `machine`; `screen` opens the
full screen, `tables` prints, `errors` reports, `revival` starts a dead engine, `child` runs slow
work in a child process. Commands know `workbench.service` and
plain data; none imports torch, ray or textual, so that every command starts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def load_command(argv: Sequence[str]) -> Callable[[], int]:
    """Import what the arguments need, and return the function that runs them.

    The screen needs none of the commands, whose imports would delay its first picture by 0.13 s.
    """
    from workbench.cli.screen import asks_for_screen, start_screen

    if asks_for_screen(argv):
        return lambda: start_screen(argv)
    from workbench.cli.app import main as run_command

    return lambda: run_command(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Every error is printed here, none is raised."""
    return load_command(sys.argv[1:] if argv is None else argv)()
