"""A line of input that keeps every line of a pasted text."""

from __future__ import annotations

from textual import events
from textual.widgets import Input


class LineInput(Input):
    """An Input that joins the lines of a paste with blanks; Textual's own keeps the first line.

    Settings copied from a file stand on lines of their own and are separated by blanks here. Its
    cursor does not blink, since each blink would be sent over the line.
    """

    def on_mount(self) -> None:
        self.cursor_blink = False

    def on_paste(self, event: events.Paste) -> None:
        # Otherwise Textual also calls Input's handler, which inserts the first line once more.
        event.prevent_default()
        event.stop()
        self._insert(event.text)

    def action_paste(self) -> None:
        """Insert Textual's own clipboard, as ctrl+v does."""
        self._insert(self.app.clipboard)

    def _insert(self, text: str) -> None:
        joined = " ".join(line.strip() for line in text.splitlines() if line.strip())
        if joined:
            self.replace(joined, *self.selection)
