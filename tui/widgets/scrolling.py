"""Moves of a page that scrolls as a whole."""

from __future__ import annotations

from textual.widget import Widget

_LINES = {"down": 1, "up": -1}


def scroll_page(page: Widget, to: str) -> None:
    """Scroll a line `down` or `up`, or to the page's `home` or `end`.

    At once: of several keys before the next repaint, all count.
    """
    if to in _LINES:
        page.scroll_relative(y=_LINES[to], animate=False, immediate=True)
    elif to == "home":
        page.scroll_home(animate=False, immediate=True)
    else:
        page.scroll_end(animate=False, immediate=True)
