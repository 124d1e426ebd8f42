"""A page with curves: the logarithmic axis, smoothing, and the steps that it shows."""

from __future__ import annotations

from tui.curves.charts import CurveChoice
from tui.curves.smoothing import WEIGHTS
from tui.curves.zoom import Window, move_window, zoom_in, zoom_out
from tui.screens.view import View
from tui.view_state import ViewState

_MOVES = ("earlier", "later", "out", "whole")
"""Rows of the key table, behind the place, that need a window."""


class CurvePage(View):
    """A view whose curves can be zoomed, smoothed, and drawn on a logarithmic axis."""

    ROWS = ""
    """How the ids of its rows in the key table begin."""

    def __init__(self, view_state: ViewState) -> None:
        super().__init__(view_state)
        self.window: Window | None = None

    def newest_step(self) -> int:
        """Return the last step of its curves."""
        raise NotImplementedError

    @property
    def choice(self) -> CurveChoice:
        """How curves are drawn on this page and the next ones."""
        return self.view_state.curve_choice

    def curve_words(self, span: tuple[int, int] | None) -> list[str]:
        """Return what a title says of how the curves are drawn; `span` are the steps shown."""
        zoomed = [f"steps {span[0]:,} to {span[1]:,}"] if self.window and span else []
        return [*self.choice.words(), *zoomed]

    def action_logarithmic(self) -> None:
        """Draw values on a logarithmic axis, or on a linear one again."""
        self.choice.logarithmic = not self.choice.logarithmic
        self.paint()

    def action_smooth(self) -> None:
        """Smooth the noisy curves more, or not at all after the strongest."""
        self.choice.smoothing = (self.choice.smoothing + 1) % len(WEIGHTS)
        self.paint()

    def action_zoom(self, by: int) -> None:
        """Show half of the steps (1), twice as many (-1), or all (0)."""
        newest = self.newest_step()
        if by > 0:
            self.window = zoom_in(self.window, newest)
        else:
            self.window = zoom_out(self.window, newest) if by else None
        self.repaint()

    def action_pan(self, by: int) -> None:
        """Move the steps that are shown by half of their number."""
        self.window = move_window(self.window, by, self.newest_step())
        self.repaint()

    def refusal(self, id: str) -> str:
        if self.window is None and id in {f"{self.ROWS}.{move}" for move in _MOVES}:
            key = self.view_state.keymap.shown_key(f"{self.ROWS}.in")
            return f"all steps are shown; {key} zooms in"
        return super().refusal(id)
