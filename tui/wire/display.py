"""Textual's updates, sent as differences: the one place that knows Textual's compositor.

`App._display` hands every update of the compositor to the driver as text. `WireApp` takes the
update's strips instead and lets `Frames` decide what is sent. That uses private names of Textual,
whose version is pinned; `tests/tui/test_wire.py` fails where one of them has moved.
"""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

from rich.color import ColorSystem
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.app import App
from textual.geometry import Offset
from textual.screen import Screen

from tui.wire.frames import QUERY, Frames
from tui.wire.pens import pen_reader

Result = TypeVar("Result")
TORN = 1_000
"""Characters from which a frame is marked as one unit (mode 2026): less is drawn at once anyway."""
RETRY_S = 0.25
"""Period of asking whether a terminal that does not answer may be written to again."""


class WireApp(App[Result], Generic[Result]):
    """An app whose screen reaches the terminal as differences, at the pace of the terminal."""

    def __init__(self, *args: Any, erases: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.frames = Frames(pen_reader(ColorSystem.TRUECOLOR), erases=erases)
        self._retrying = False
        self._parked = Offset(-1, -1)

    def colour_system(self) -> ColorSystem:
        """Return the colours that styles are reduced to."""
        return self.console._color_system or ColorSystem.STANDARD

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        driver = self._driver
        if driver is None or driver.is_inline or self.is_headless or not self._running:
            super()._display(screen, renderable)
        elif not isinstance(renderable, LayoutUpdate | ChopsUpdate):
            super()._display(screen, renderable)
            if renderable is not None:
                self.frames.forget()
        elif not self._batch_count and not self._closed:
            try:
                self.frames.resize(*self.screen.outer_size)
                pens = pen_reader(self.colour_system(), colourless=self.no_color)
                self.frames.begin_update(pens)
                place_update(self.frames, renderable)
                self.send_frames()
            except Exception as broken:
                self._handle_exception(broken)
            self.post_display_hook()

    def send_frames(self) -> None:
        """Send what differs, as far as the terminal has room for it."""
        driver = self._driver
        if driver is None or not self._running or self._closed:
            return
        text = self.frames.next_frame()
        if text:
            at = self.screen.outer_size.clamp_offset(self.cursor_position)
            # Input methods open where the cursor stands; elsewhere it is hidden and may stay.
            if at != self._parked or hasattr(self.screen.focused, "cursor_screen_offset"):
                text += self.frames.park(*at)
                self._parked = at
            if self._sync_available and len(text) > TORN:
                text = f"\x1b[?2026h{text}\x1b[?2026l"
            driver.write(text + QUERY)
            self.frames.window.sent(len(text.encode()) + len(QUERY))
        if self.frames.pending and not self._retrying:
            self._retrying = True
            asyncio.get_running_loop().call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self.send_frames()

    def action_redraw(self) -> None:
        """Send everything again, where something else has written to the terminal."""
        self.frames.forget()
        self.send_frames()


def place_update(frames: Frames, update: CompositorUpdate) -> None:
    """Take over the strips of an update, whole screen or parts of lines."""
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            segments = [(text, style) for strip in line for text, style, _ in strip]
            frames.place(update.region.x, y, segments)
    elif isinstance(update, ChopsUpdate):
        for y, x1, x2 in update.spans:
            ends = update.chop_ends[y]
            for end, (x, strip) in zip(ends, update.chops[y].items(), strict=False):
                # A chop lies between two edges of widgets, so that it is whole or not there.
                if strip is not None and x < x2 and end > x1:
                    frames.place(x, y, [(text, style) for text, style, _ in strip])
