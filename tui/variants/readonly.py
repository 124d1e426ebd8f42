"""A service that only reads, for `--readonly`: no key of the screen changes anything then."""

from __future__ import annotations

from typing import Any

from tui.keys.table import KeyRow
from workbench.errors import UsageError
from workbench.service import Service

WHY = "this screen only reads"
HINT = "leave, and open it without --readonly"
_CHANGES = (
    *("act(", "input(", "priority(", "hold", "hold_all", "order(", "drain(", "experiment"),
    *("chat", "export", "merge", "new", "undo", "app.start_engine", "app.new_run", "app.undo"),
)
"""How the actions begin that ask the engine for something."""


class ReadOnly(UsageError):
    """The screen was opened to look, and something was to be changed."""


class ReadOnlyService(Service):
    """A Service that drops no request and starts no engine."""

    def send(self, verb: str, **args: Any) -> str:
        """Raise ReadOnly: nothing is sent."""
        raise ReadOnly(f"{WHY}; {verb} was not sent", hint=HINT)

    def start_engine(self) -> None:
        """Raise ReadOnly: nothing is started."""
        raise ReadOnly(f"{WHY}; the engine was not started", hint=HINT)

    def ensure_engine(self) -> bool:
        """Return whether the engine may run, without starting it."""
        return self.engine().state not in ("stopping", "stopped")


def changes_something(row: KeyRow) -> bool:
    """Return whether a row of the key table asks the engine for something."""
    return row.action.startswith(_CHANGES)
