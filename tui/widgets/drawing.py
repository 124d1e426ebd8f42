"""A widget whose content is drawn for its size, and a container that says when it has another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.containers import Container
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line
from tui.widgets import strips

Draw = Callable[[int, int], Sequence[Line]]
"""Returns the lines for a width and a height in cells."""


class Drawing(Widget):
    """A widget that is drawn again for every size, and repaints only lines that changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw: Draw | None = None
        self._drawn: list[Line] = []

    def show(self, draw: Draw | None) -> None:
        """Show what `draw` returns for the widget's size from now on; None shows nothing."""
        self._draw = draw
        self._redraw()

    def on_resize(self) -> None:
        self._redraw()

    def _redraw(self) -> None:
        width, height = self.size
        before = self._drawn
        self._drawn = list(self._draw(width, height)) if self._draw and width and height else []
        for y in range(max(len(before), len(self._drawn))):
            if before[y : y + 1] != self._drawn[y : y + 1]:
                self.refresh(Region(0, y, width, 1))

    def render_line(self, y: int) -> Strip:
        line = self._drawn[y] if y < len(self._drawn) else ()
        return strips.render_strip(self, line, self.size.width)


class Room(Container):
    """A container whose parent decides by its height what stands in it."""

    class Resized(Message):
        """The container has another size."""

    def on_resize(self) -> None:
        self.post_message(self.Resized())
