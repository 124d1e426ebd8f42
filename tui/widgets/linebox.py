"""A box of lines that repaints only the lines that changed, and titles as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line, wrap_line
from tui.widgets import strips
from workbench.text import safe_line


def set_title(widget: Widget, title: str) -> None:
    """Set a border title as plain text, never as markup; repaint only when it changed."""
    clean = safe_line(title)
    if str(widget.border_title or "") != clean:
        widget.border_title = Content(clean)


class LineBox(Widget):
    """A widget that shows lines with tones.

    `wrapped` breaks long lines between words and indents what follows the break by `indent`.
    """

    DEFAULT_CSS = "LineBox { height: auto; }"

    def __init__(self, *, id: str | None = None, wrapped: bool = False, indent: int = 0) -> None:
        super().__init__(id=id)
        self._wrapped, self._indent = wrapped, indent
        self._given: tuple[Line, ...] = ()
        self._laid_out: dict[int, list[Line]] = {}

    def show(self, lines: Sequence[Line]) -> None:
        """Show these lines from now on; lines that are the same as before are not repainted."""
        given = tuple(lines)
        if given == self._given:
            return
        width = self.size.width
        old = self._broken(width)
        self._given = given
        self._laid_out.clear()
        new = self._broken(width)
        if len(old) != len(new) or not width:  # another height, or no layout so far
            self.refresh(layout=True)
            return
        for y, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                self.refresh(Region(0, y, width, 1))

    def _broken(self, width: int) -> list[Line]:
        """Return the lines broken for that width; kept, because a layout tries several widths."""
        if not self._wrapped or not width:
            return list(self._given)
        if width not in self._laid_out:
            self._laid_out[width] = [
                row for line in self._given for row in wrap_line(line, width, self._indent)
            ]
        return self._laid_out[width]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._broken(width))

    def render_line(self, y: int) -> Strip:
        lines = self._broken(self.size.width)
        return strips.render_strip(self, lines[y] if y < len(lines) else (), self.size.width)
