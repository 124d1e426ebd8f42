"""A box of lines that repaints only those that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.content import Content
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line, wrap
from tui.widgets import strips


def entitle(widget: Widget, title: str) -> None:
    """Set a border title as text, never as markup; repaints only when it changed."""
    if str(widget.border_title or "") != title:
        widget.border_title = Content(title)


class LineBox(Widget):
    """Shows lines as they are; `wrapped` breaks long ones between words."""

    COMPONENT_CLASSES: ClassVar[set[str]] = strips.CLASSES
    DEFAULT_CSS = "LineBox { height: auto; }"

    def __init__(
        self, *, id: str | None = None, classes: str | None = None, wrapped: bool = False
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._wrapped = wrapped
        self._given: tuple[Line, ...] = ()
        self._lines: list[Line] = []
        self._laid_out_for = 0

    def show(self, lines: Sequence[Line]) -> None:
        given = tuple(lines)
        if given == self._given:
            return
        self._given = given
        self._lay_out(self._laid_out_for)

    def _lay_out(self, width: int) -> None:
        old = self._lines
        self._laid_out_for = width
        self._lines = (
            [row for line in self._given for row in wrap(line, width, indent=2)]
            if self._wrapped and width
            else list(self._given)
        )
        if len(old) != len(self._lines):
            self.refresh(layout=True)
            return
        for y, (before, after) in enumerate(zip(old, self._lines, strict=True)):
            if before != after:
                self.refresh(Region(0, y, self.size.width, 1))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if width != self._laid_out_for:
            self._lay_out(width)
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        if self._wrapped and self.size.width != self._laid_out_for:
            self._lay_out(self.size.width)
        line = self._lines[y] if y < len(self._lines) else ()
        return strips.strip(self, line, self.size.width)
