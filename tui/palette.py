"""The commands of the palette: every action of the key table that fits the visible screen."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from textual.app import SystemCommand
from textual.command import CommandPalette
from textual.screen import Screen

from tui.keys.keymap import Keymap, key_text
from tui.keys.table import APP, KeyRow
from tui.screens.view import View
from tui.view_state import ViewState


class SafeCommandPalette(CommandPalette):
    """Textual's palette, which a page key before its list has been laid out does not end."""

    def _action_command_list(self, action: str) -> None:
        # Textual 8 looks up the line of the highlighted option, and a list without a size has none.
        with suppress(LookupError):
            super()._action_command_list(action)


def palette_commands(view_state: ViewState, screen: Screen[object]) -> Iterable[SystemCommand]:
    """Yield a command for each action that works on the screen, with its key.

    A disabled action says why, and says it again when it is chosen. Commands act as keys do.
    """
    if not isinstance(screen, View):
        return
    for row in view_state.keymap.rows_for(screen.place):
        if not row.palette:
            continue
        about = command_help(row, view_state.keymap, screen)
        if row.place == APP:
            yield SystemCommand(row.text, about, partial(screen.app.run_action, row.action))
        else:
            yield SystemCommand(row.text, about, partial(screen.action_press, row.id))


def command_help(row: KeyRow, keymap: Keymap, screen: View) -> str:
    """Return an action's keys, and why it is disabled where it is."""
    keys = " ".join(key_text(key) for key in keymap.keys_of(row.id))
    why_not = screen.refusal(row.id)
    return f"{keys}  not now: {why_not}" if why_not else keys or "no key"
