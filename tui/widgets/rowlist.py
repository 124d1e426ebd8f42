"""A list of rows in columns, with a cursor that stays on its row whatever happens around it.

It is painted line by line: an update repaints the rows that changed and nothing else. Textual's
DataTable would repaint the whole table for one cell, 6 KiB on the wire against 0.4 KiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.keys.keymap import place_bindings
from tui.keys.table import LIST
from tui.paint import Line, Span, fit_line
from tui.widgets import strips
from tui.widgets.columns import GAP, Column, arrange_columns
from tui.widgets.lazy_rows import Cell, Key, LazyRows, ListRow


class RowList(ScrollView, can_focus=True):
    """A scrollable list of rows by key.

    It posts a message when the cursor reaches another row, and when a row is opened or marked.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*place_bindings(LIST)]

    class Reached(Message):
        """The cursor reached another row."""

        def __init__(self, rows: RowList, key: Key | None) -> None:
            super().__init__()
            self.rows, self.key = rows, key

        @property
        def control(self) -> RowList:
            return self.rows

    class HeadClicked(Message):
        """The title of a column was clicked."""

        def __init__(self, rows: RowList, title: str) -> None:
            super().__init__()
            self.rows, self.title = rows, title

        @property
        def control(self) -> RowList:
            return self.rows

    class Opened(Reached):
        """Enter was pressed, or the row under the cursor was clicked."""

    class Marked(Reached):
        """Space was pressed."""

    def __init__(
        self,
        *,
        id: str | None = None,
        header: bool = True,
        cursor: bool = True,
        follow: bool = False,
        empty: str = "",
    ) -> None:
        """`cursor` makes rows selectable. `follow` keeps the cursor at the end when it is there.

        `empty` is the text that stands in a list without rows.
        """
        super().__init__(id=id)
        self.can_focus = cursor
        self._head = int(header)
        self._has_cursor = cursor
        self._follow = follow
        self._empty = empty
        self._columns: tuple[Column, ...] = ()
        self._widths: list[int | None] = []
        self._arranged_for = 0
        self._rows = LazyRows.from_rows([])
        self._at = 0
        self._frozen = 0
        """Rows at the top that stay in sight, however far the rest is scrolled."""
        self._moved = False
        """True if the user moved the cursor; until then it stays at the top."""

    # --- content ---

    @property
    def key(self) -> Key | None:
        """The key of the row under the cursor; None in an empty list."""
        return self._rows.keys[self._at] if self._rows else None

    @property
    def rows(self) -> Sequence[ListRow]:
        """The rows of the list, also those scrolled out of sight."""
        return self._rows

    def show(
        self,
        columns: Sequence[Column],
        rows: Sequence[ListRow],
        empty: str = "",
        frozen: int = 0,
    ) -> None:
        """Show these rows and repaint what differs. A cursor that was moved stays on its key.

        LazyRows are built as far as they are in sight. A list that was scrolled away from its
        cursor stays where it is. The first `frozen` rows, as far as they leave half of the list
        to the others, are never scrolled away.
        """
        old, key, last = self._rows, self.key, self._at >= len(self._rows) - 1
        in_sight = self._cursor_in_sight()
        self._rows = LazyRows.from_rows(rows)
        frozen = min(frozen, max(0, (self.size.height - self._head) // 2))
        redo = tuple(columns) != self._columns or (empty or self._empty) != self._empty
        redo, self._frozen = redo or frozen != self._frozen, frozen
        self._empty = empty or self._empty
        if tuple(columns) != self._columns:
            self._columns = tuple(columns)
            self._arrange()
        self._at = self._place(key, follow=self._follow and last)
        if redo or len(old) != len(self._rows):
            self._measure()
            self.refresh()
        else:
            self._refresh_changed(old, key)
        if self.key != key:
            self.post_message(self.Reached(self, self.key))
        if in_sight:
            self._show_cursor()

    def _place(self, key: Key | None, *, follow: bool) -> int:
        end = max(0, len(self._rows) - 1)
        if follow:
            return end
        if not self._moved:
            return 0
        found = self._rows.find(key)
        return min(self._at, end) if found is None else found

    def _refresh_changed(self, old: LazyRows, key: Key | None) -> None:
        # The second condition repaints the row that the cursor left and the one it reached.
        top = self.scroll_offset.y
        below = range(top + self._frozen, min(len(old), top + self.size.height))
        for i in (*range(min(self._frozen, len(old))), *below):
            if old.built(i) != self._rows[i] or (old.keys[i] == key) != (i == self._at):
                self.refresh_line(i + self._head)

    def _cursor_in_sight(self) -> bool:
        room = self.size.height - self._head
        if room <= 0 or not self._rows or self._at < self._frozen:
            return True
        return self._frozen <= self._at - self.scroll_offset.y < room

    def pin(self) -> None:
        """Keep the cursor on its key from now on, so that a key can undo what was just done."""
        self._moved = True

    def to_key(self, key: Key) -> None:
        """Move the cursor to the row of that key, if there is one."""
        found = self._rows.find(key)
        if found is not None:
            self._go(found)

    # --- the cursor ---

    def action_move(self, by: int) -> None:
        self._go(self._at + by)

    def action_page(self, by: int) -> None:
        self._go(self._at + by * max(1, self.size.height - self._head - 1))

    def action_to(self, at: int) -> None:
        self._go(at if at >= 0 else len(self._rows) - 1)

    def action_open(self) -> None:
        self.post_message(self.Opened(self, self.key))

    def action_mark(self) -> None:
        self.post_message(self.Marked(self, self.key))
        self._go(self._at + 1)

    def _go(self, at: int) -> None:
        at = max(0, min(len(self._rows) - 1, at))
        if at == self._at or not self._rows:
            return
        before, self._at, self._moved = self._at, at, True
        for i in (before, at):
            self.refresh_line(i + self._head)
        self._show_cursor()
        self.post_message(self.Reached(self, self.key))

    def _show_cursor(self) -> None:
        room = self.size.height - self._head
        if room <= 0:
            return
        top = self.scroll_offset.y
        if self._follow and not self._has_cursor:
            self.scroll_to(y=max(0, len(self._rows) - room), animate=False, force=True)
        elif self._at < self._frozen:
            return  # in sight, whatever lies below
        elif self._at < top + self._frozen:
            self.scroll_to(y=self._at - self._frozen, animate=False, force=True)
        elif self._at >= top + room:
            self.scroll_to(y=self._at - room + 1, animate=False, force=True)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None or not self._has_cursor:
            return
        if offset.y < self._head:
            self._click_head(offset.x)
            return
        at = self._place_at(offset.y - self._head)
        if at >= len(self._rows):
            return
        if at == self._at:
            self.action_open()
        else:
            self._go(at)

    def _click_head(self, x: int) -> None:
        left = 0
        for column, width in zip(self._columns, self._widths, strict=True):
            if width is not None and left <= x < left + width + GAP:
                self.post_message(self.HeadClicked(self, column.title))
                return
            left += 0 if width is None else width + GAP

    def _place_at(self, y: int) -> int:
        """Return the place of the row that is drawn `y` lines below the header."""
        return y if y < self._frozen else y + self.scroll_offset.y

    # --- painting ---

    def on_resize(self) -> None:
        self._arrange()
        self._measure()
        self.refresh()
        self._show_cursor()

    def _arrange(self) -> None:
        self._arranged_for = self.room
        self._widths = arrange_columns(self._columns, self.room)

    def _measure(self) -> None:
        self.virtual_size = Size(self.room, len(self._rows) + self._head)

    @property
    def room(self) -> int:
        """Width of a row in cells, without the scrollbar."""
        return self.scrollable_content_region.width

    def watch_show_vertical_scrollbar(self, shown: bool) -> None:
        if shown:  # Textual moves a scroll bar only while it is shown
            self.vertical_scrollbar.position = self.scroll_y

    def watch_has_focus(self, _has_focus: bool) -> None:
        self.refresh_line(self._at + self._head)

    def render_line(self, y: int) -> Strip:
        width = self.room
        if width != self._arranged_for:  # a scrollbar came or went since the last layout
            self._arrange()
        if y < self._head:
            return strips.render_strip(self, self._header(), width)
        at = self._place_at(y - self._head)
        if at >= len(self._rows):
            note: Line = ((self._empty, "dim"),) if not self._rows and at == 0 else ()
            return strips.render_strip(self, note, width)
        shade = ""
        if self._has_cursor and at == self._at:
            shade = "cursor" if self.has_focus else "cursor-blur"
        return strips.render_strip(self, self._joined(self._rows[at].cells), width, shade)

    def _header(self) -> Line:
        return self._joined(tuple(((column.title, "head"),) for column in self._columns))

    def _joined(self, cells: Sequence[Cell]) -> Line:
        line: list[tuple[str, str]] = []
        room = self.room
        for column, cell, width in zip(self._columns, cells, self._widths, strict=False):
            if isinstance(cell, Span):
                gap = GAP if line else 0
                line.append((" " * gap, ""))
                line.extend(fit_line(cell.line, room - gap))
                break
            if width is None:
                continue
            if line:
                line.append((" " * GAP, ""))
                room -= GAP
            room -= width
            content = cell if isinstance(cell, tuple) else cell.line(width)
            line.extend(fit_line(content, width, "right" if column.right else "left"))
        return tuple(line)

    def refresh_line(self, y: int) -> None:
        """Repaint one line; `y` counts from the header and ignores scrolling."""
        scrolled = self.scroll_offset.y if y - self._head >= self._frozen else 0
        self.refresh(Region(0, y - scrolled, self.size.width, 1))
