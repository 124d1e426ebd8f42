"""A line of input that keeps every line of a pasted text."""

from __future__ import annotations

from textual import events
from textual.widgets import Input


class LineInput(Input):
    """An Input that joins the lines of a paste with blanks; Textual's own keeps the first line.

    Settings copied from a file stand on lines of their own and are separated by blanks here. Its
    cursor does not blink, since each blink would be sent over the line. An input that `closes` with
    enter leaves keys typed behind it to the screen.
    """

    closes = False
    _entered = False
    """True from enter until the focus comes back."""

    def on_mount(self) -> None:
        self.cursor_blink = False

    def on_focus(self) -> None:
        self._entered = False

    def on_key(self, event: events.Key) -> None:
        if self._entered:
            # Typed before the screen had closed the line: the key is meant for what lies below.
            event.stop()
            event.prevent_default()
            self.app.post_message(events.Key(event.key, event.character))
        elif event.key == "enter":
            self._entered = self.closes

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
