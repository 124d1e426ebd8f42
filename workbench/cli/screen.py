"""The start of the screen past the commands, whose imports take a quarter of its first picture."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workbench.cli.errors import report_error
from workbench.cli.revival import revive_engine
from workbench.service import Service

_OPTIONS = frozenset({"--readonly", "--ascii"})
"""The options with which the screen of this home opens."""


def asks_for_screen(argv: Sequence[str]) -> bool:
    """Return whether these arguments mean the screen of this home and nothing else.

    Without a terminal they mean the help.
    """
    return _OPTIONS.issuperset(argv) and sys.stdin.isatty() and sys.stdout.isatty()


def open_screen(*, readonly: bool = False, ascii_only: bool = False) -> int:
    """Open the screen of this home and return its exit code, once the user has left it."""
    from tui.app import run_app

    service = Service()
    if not readonly:
        revive_engine(service)
    return run_app(service.home, readonly=readonly, ascii_only=ascii_only)


def start_screen(argv: Sequence[str]) -> int:
    """Open the screen for the arguments of a command line; every error is printed here."""
    try:
        return open_screen(readonly="--readonly" in argv, ascii_only="--ascii" in argv)
    except BaseException as error:
        return report_error(error)
