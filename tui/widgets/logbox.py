"""A log that follows its end until the user scrolls away, wraps its lines, and finds text."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.paint import Line, line_width, wrap_line
from tui.tables.logs import INDENT, Entry, mark_matches, matching
from tui.widgets import strips


class LogBox(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines with keys, the newest last; it keeps the line at its top where others come or go.

    Its screen has the keys.
    """

    class Scrolled(Message):
        """Other lines than before are in sight."""

    DEFAULT_CSS = """
    LogBox {
        height: 1fr;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 0;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.following = True
        """True while the newest line is kept in sight."""
        self.empty = ""
        """The text of a log without lines."""
        self.wraps = True
        self._entries: list[Entry] = []
        self._rows: list[Line] = []
        self._starts: list[int] = []
        """The first row of each entry."""
        self._broken: dict[Line, list[Line]] = {}
        self._broken_for = 0
        self._pattern: re.Pattern[str] | None = None
        self.matches: list[int] = []
        """The places of the entries that match the search."""
        self.found: int | None = None
        """The match that the search is at."""

    # --- content ---

    def show(
        self, entries: Sequence[Entry], pattern: re.Pattern[str] | None, empty: str = ""
    ) -> None:
        """Show these lines, and mark what the pattern finds; `empty` stands there without lines."""
        given = list(entries)
        if (given, pattern, empty) == (self._entries, self._pattern, self.empty):
            return
        self.empty = empty
        top, found = self._key_at(self._top_entry()), self._key_at(self.found)
        if pattern != self._pattern:
            found = None
        self._entries, self._pattern = given, pattern
        self.matches = matching(given, pattern)
        self.found = self._place_of(found)
        self._lay_out(top)

    def _key_at(self, place: int | None) -> tuple[int, int] | None:
        if place is None or not 0 <= place < len(self._entries):
            return None
        return self._entries[place][0]

    def _place_of(self, key: tuple[int, int] | None) -> int | None:
        """Return the place of the first entry that is not older than `key`."""
        if key is None:
            return None
        return next((n for n, entry in enumerate(self._entries) if entry[0] >= key), None)

    def _lay_out(self, top: tuple[int, int] | None) -> None:
        """Break all lines; keep the end in sight while following, else the entry `top` on top."""
        width = self.scrollable_content_region.width
        if not width:
            return  # no layout so far
        if self._broken_for != (width if self.wraps else -1):
            self._broken, self._broken_for = {}, width if self.wraps else -1
        rows: list[Line] = []
        starts: list[int] = []
        kept: dict[Line, list[Line]] = {}
        for _, line in self._entries:
            broken = self._broken.get(line) or self._break(line, width)
            kept[line] = broken
            starts.append(len(rows))
            rows += broken
        self._rows, self._starts, self._broken = rows, starts, kept
        across = width if self.wraps else max(map(line_width, rows), default=0)
        self.virtual_size = Size(across, len(rows))
        self.refresh()
        if self.following:
            self.to_end()
        elif (place := self._place_of(top)) is not None:
            self.scroll_to(y=starts[place], animate=False, force=True)

    def _break(self, line: Line, width: int) -> list[Line]:
        return wrap_line(line, width, INDENT) if self.wraps else [line]

    def wrap(self, *, wraps: bool) -> None:
        """Break long lines, or let them run out of sight at the right."""
        top, self.wraps = self._key_at(self._top_entry()), wraps
        self._lay_out(top)

    # --- scrolling ---

    @property
    def below(self) -> int:
        """The number of rows below the last one in sight."""
        return max(0, len(self._rows) - self.scroll_offset.y - self.size.height)

    def _top_entry(self) -> int | None:
        if not self._starts:
            return None
        return bisect_right(self._starts, self.scroll_offset.y) - 1

    def to_end(self) -> None:
        """Go to the newest line, and follow from there."""
        self.following = True
        self.scroll_to(y=max(0, len(self._rows) - self.size.height), animate=False, force=True)

    def watch_scroll_y(self, old: float, new: float) -> None:
        super().watch_scroll_y(old, new)
        if old != new:
            self.following = new >= len(self._rows) - self.size.height
            self.post_message(self.Scrolled())

    # --- search ---

    def find(self, by: int) -> bool:
        """Go to the next match (1) or the one before (-1), around the ends; return False for none.

        The search begins at the top of what is in sight.
        """
        if not self.matches:
            return False
        here = self.found if self.found is not None else (self._top_entry() or 0) - (by > 0)
        later = [place for place in self.matches if place > here]
        earlier = [place for place in self.matches if place < here]
        if by > 0:
            self.found = later[0] if later else self.matches[0]
        else:
            self.found = earlier[-1] if earlier else self.matches[-1]
        self._show_found()
        return True

    def _show_found(self) -> None:
        assert self.found is not None
        row, height = self._starts[self.found], self.size.height
        if not 0 <= row - self.scroll_offset.y < height - 1:
            self.following = False
            y = min(max(0, row - height // 3), max(0, len(self._rows) - height))
            self.scroll_to(y=y, animate=False, force=True)
        self.refresh()

    # --- painting ---

    def on_resize(self) -> None:
        self._lay_out(self._key_at(self._top_entry()))

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        left, at = self.scroll_offset.x, self.scroll_offset.y + y
        if at >= len(self._rows):
            note: Line = ((self.empty, "dim"),) if not self._rows and y == 0 else ()
            return strips.render_strip(self, note, width)
        line = self._rows[at]
        if self._pattern is not None:
            line = mark_matches(line, self._pattern)
        entry = bisect_right(self._starts, at) - 1
        shade = "cursor" if entry == self.found else ""
        whole = max(width, line_width(line)) if left else width
        return strips.render_strip(self, line, whole + left, shade).crop(left, left + width)
