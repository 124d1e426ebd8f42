"""Conversion of lines with tones to Textual's strips."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import TONES, Line, fit_line

SHADES = ("cursor", "cursor-blur")
"""Backgrounds laid over a whole line."""
CLASSES = {f"tone--{name}" for name in (*TONES, *SHADES)}
"""The COMPONENT_CLASSES of every screen; widgets look their tones up on their screen."""


def render_strip(widget: Widget, line: Line, width: int, shade: str = "") -> Strip:
    """Return `line` as a strip of exactly `width` cells, on the widget's background or a shade."""
    base = widget.visual_style.rich_style
    if shade:
        base += widget.screen.get_component_rich_style(f"tone--{shade}", partial=True)
    parts = [(text, _tone(widget, tone)) for text, tone in fit_line(line, width)]
    if base.reverse:  # colours would become as many backgrounds
        parts = [(text, Style(bold=tone.bold or None)) for text, tone in parts]
    return Strip([Segment(text, base + tone) for text, tone in parts], width)


def _tone(widget: Widget, tone: str) -> Style:
    # Never None: a segment without a style crashes Textual under NO_COLOR.
    if not tone:
        return Style.null()
    return widget.screen.get_component_rich_style(f"tone--{tone}", partial=True)
