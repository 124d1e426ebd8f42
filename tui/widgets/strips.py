"""From lines of toned parts to Textual's strips."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import TONES, Line, fit

SHADES = ("cursor", "cursor-blur")
"""Backgrounds laid over a whole line."""
CLASSES = {f"tone--{name}" for name in (*TONES, *SHADES)}
"""COMPONENT_CLASSES of every screen; its widgets take their tones from it."""


def strip(widget: Widget, line: Line, width: int, shade: str = "") -> Strip:
    """`line` on exactly `width` cells, over the widget's background or one of SHADES."""
    base = widget.visual_style.rich_style
    if shade:
        base += widget.screen.get_component_rich_style(f"tone--{shade}", partial=True)
    return Strip(
        [Segment(text, base + _tone(widget, tone)) for text, tone in fit(line, width)], width
    )


def _tone(widget: Widget, tone: str) -> Style:
    if not tone:
        return Style.null()
    return widget.screen.get_component_rich_style(f"tone--{tone}", partial=True)
