"""The steps that charts show: the whole run, or a window that follows its end or stays."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_STEPS = 8
"""Steps of the closest zoom."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some steps of a run; `last` is None for a window that follows the newest step."""

    steps: int
    last: int | None = None

    def span(self, newest: int) -> tuple[int, int]:
        """Return the first and the last step of the window in a run of `newest` steps."""
        last = newest if self.last is None else min(self.last, newest)
        return (max(0, last - self.steps + 1), last)


def zoom_in(window: Window | None, newest: int) -> Window | None:
    """Return the newer half of the window; the window itself where it cannot be halved."""
    steps = (window.steps if window else newest) // 2
    if steps < LEAST_STEPS:
        return window
    return Window(steps, window.last if window else None)


def zoom_out(window: Window | None, newest: int) -> Window | None:
    """Return twice the window with the same end; None once it holds the whole run."""
    if window is None or window.steps * 2 >= newest:
        return None
    return Window(window.steps * 2, window.last)


def move_window(window: Window | None, by: int, newest: int) -> Window | None:
    """Return the window moved `by` halves of itself; at the newest step it follows the run."""
    if window is None:
        return None
    last = window.span(newest)[1] + by * (window.steps // 2)
    last = max(window.steps, last)
    return Window(window.steps, None if last >= newest else last)
