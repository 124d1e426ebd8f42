"""The lines above and below every view: the list of views, the engine's state, banner, keys."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line, Part, join_lines, line_width, plain_part
from tui.widgets import strips
from workbench import formatting
from workbench.service import EngineStatus, Snapshot
from workbench.text import safe_line
from workbench.trial import Kind, State

VIEWS = ("Dashboard", "Trials", "Queue", "Board", "Cards", "Events")

_ENGINE: dict[str, Part] = {
    "running": ("● engine running", "good"),
    "starting": ("◐ engine starting", "live"),
    "late": ("! engine not answering", "warn"),
    "stopped": ("■ engine stopped", "warn"),
    "down": ("✗ engine down", "bad"),
}


class OneLine(Widget):
    """A widget of one line, repainted only when it changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._line: Line = ()

    def paint(self, line: Line) -> None:
        """Show this line from now on."""
        if line != self._line:
            self._line = line
            self.refresh(Region(0, 0, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        return strips.render_strip(self, self._line if y == 0 else (), self.size.width)


def top_line(here: str, snapshot: Snapshot | None, cells: int) -> Line:
    """Return the views with their digits, and the engine's state at the right as far as it fits.

    From the most to the least: counts of trials with the state, the state, one word of it.
    """
    views: list[Part] = []
    for digit, name in enumerate(VIEWS, start=1):
        on = name == here
        views.append((f" {digit}", "accent" if on else "faint"))
        views.append((f" {name} ", "accent" if on else "dim"))
    if snapshot is None:
        return tuple(views)
    state = (_ENGINE[snapshot.engine.state],)
    counts = _counts(snapshot)
    used = sum(len(text) for text, _ in views)
    for right in (join_lines((counts, state), (" · ", "faint")), state, (_short(snapshot.engine),)):
        if used + line_width(right) + 1 <= cells:
            return (*views, (" " * (cells - used - line_width(right)), ""), *right)
    return tuple(views)


def _short(engine: EngineStatus) -> Part:
    text, tone = _ENGINE[engine.state]
    return (text.replace("engine ", "").replace("not answering", "late"), tone)


def _counts(snapshot: Snapshot) -> Line:
    work = [row for row in snapshot.trials if row.kind in (Kind.TUNE, Kind.SCORE)]
    live = sum(row.state.live for row in work if row.kind is Kind.TUNE)
    scored = sum(row.state.live for row in work if row.kind is Kind.SCORE)
    waiting = sum(row.state is State.QUEUED for row in work)
    parts = [f"{live} training"] if live else []
    parts += [f"{scored} scoring"] if scored else []
    if waiting:
        parts.append(f"{waiting} waiting")
    return ((" · ".join(parts), "dim"),) if parts else ()


def key_line(keys: Sequence[tuple[str, str]], cells: int) -> Line:
    """Return as many keys with their meanings as fit; the last two always stay."""
    parts = [((f" {key}", "accent"), (f" {meaning} ", "dim")) for key, meaning in keys]
    while len(parts) > 2 and sum(line_width(part) for part in parts) > cells:
        del parts[-3]
    return tuple(piece for part in parts for piece in part)


def banner_lines(snapshot: Snapshot, at_utc: float, now: float, read_error: str) -> list[Line]:
    """Return what is wrong with the engine or the store; an empty list when nothing is.

    `at_utc` is the time of the snapshot: the engine's silence grows from there until `now`.
    """
    engine = snapshot.engine
    if read_error:
        return [((f"! {read_error}", "bad"), (" The screen keeps trying to read it.", "dim"))]
    if engine.state == "starting":
        return [(("◐ The engine is starting: ", "live"), plain_part(engine.detail or "a moment"))]
    if engine.state == "late":
        age = None if engine.tick_age_s is None else engine.tick_age_s + max(0.0, now - at_utc)
        return [
            (
                (f"! The engine has not answered for {formatting.duration(age)}", "warn"),
                (" — training may go on; the keeper restarts the engine by itself.", ""),
            )
        ]
    if engine.state == "stopped":
        by_you = engine.detail == "stopped by you"
        how = "was stopped by you" if by_you else f"ended by itself: {safe_line(engine.detail)}"
        return [
            (
                (f"■ The engine {how}", "warn"),
                (" — nothing trains until it runs again. ", ""),
                ("E", "accent"),
                (" starts it.", ""),
            )
        ]
    if engine.state == "down":
        return [_down(bool(snapshot.trials))]
    if engine.detail:
        lead = "! Nothing new is started: " if engine.braked else "! "
        return [((lead, "warn"), plain_part(engine.detail))]
    return []


def _down(trained: bool) -> Line:
    start: Line = (("E", "accent"), (" starts it.", ""))
    if not trained:
        return (("✗ The engine is not running. ", "warn"), *start)
    return (
        ("✗ The engine is not running", "bad"),
        (
            " — its workers may still be training; a trial that ended meanwhile resumes from its ",
            "",
        ),
        ("last checkpoint. ", ""),
        *start,
    )
