"""A box of lines that repaints only those that changed."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line, wrap
from tui.widgets import strips
from workbench.text import safe_line


def entitle(widget: Widget, title: str) -> None:
    """Set a border title as text, never as markup; repaints only when it changed."""
    clean = safe_line(title)
    if str(widget.border_title or "") != clean:
        widget.border_title = Content(clean)


class LineBox(Widget):
    """Shows lines as they are; `wrapped` breaks long ones between words, and indents the rest."""

    DEFAULT_CSS = "LineBox { height: auto; }"

    def __init__(self, *, id: str | None = None, wrapped: bool = False, indent: int = 0) -> None:
        super().__init__(id=id)
        self._wrapped, self._indent = wrapped, indent
        self._given: tuple[Line, ...] = ()
        self._laid_out: dict[int, list[Line]] = {}

    def show(self, lines: Sequence[Line]) -> None:
        given = tuple(lines)
        if given == self._given:
            return
        width = self.size.width
        old = self._at(width)
        self._given = given
        self._laid_out.clear()
        new = self._at(width)
        if len(old) != len(new) or not width:
            self.refresh(layout=True)
            return
        for y, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                self.refresh(Region(0, y, width, 1))

    def _at(self, width: int) -> list[Line]:
        """The lines as they stand at that width; a layout may try several."""
        if not self._wrapped or not width:
            return list(self._given)
        if width not in self._laid_out:
            self._laid_out[width] = [
                row for line in self._given for row in wrap(line, width, self._indent)
            ]
        return self._laid_out[width]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._at(width))

    def render_line(self, y: int) -> Strip:
        lines = self._at(self.size.width)
        return strips.strip(self, lines[y] if y < len(lines) else (), self.size.width)
