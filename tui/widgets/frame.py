"""What stands above and below every view: where one is, how the engine does, the keys."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui import present
from tui.paint import Line, Part, join, plain, width
from tui.widgets import strips
from workbench.service import Engine, Snapshot
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
    """One line, repainted when it changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._line: Line = ()

    def paint(self, line: Line) -> None:
        if line != self._line:
            self._line = line
            self.refresh(Region(0, 0, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        return strips.strip(self, self._line if y == 0 else (), self.size.width)


def top_line(here: str, snapshot: Snapshot | None, cells: int) -> Line:
    """The views with their digits, and on the right what the engine does, as far as it fits."""
    views: list[Part] = []
    for digit, name in enumerate(VIEWS, start=1):
        on = name == here
        views.append((f" {digit}", "accent" if on else "faint"))
        views.append((f" {name} ", "accent" if on else "dim"))
    if snapshot is None:
        return tuple(views)
    told = (_ENGINE[snapshot.engine.state],)
    counts = _counts(snapshot)
    used = sum(len(text) for text, _ in views)
    for right in (join((counts, told), (" · ", "faint")), told, (_short(snapshot.engine),)):
        if used + width(right) + 1 <= cells:
            return (*views, (" " * (cells - used - width(right)), ""), *right)
    return tuple(views)


def _short(engine: Engine) -> Part:
    text, tone = _ENGINE[engine.state]
    return (text.replace("engine ", "").replace("not answering", "late"), tone)


def _counts(snapshot: Snapshot) -> Line:
    tuned = [row for row in snapshot.trials if row.kind is Kind.TUNE]
    live = sum(row.state.live for row in tuned)
    waiting = sum(row.state is State.QUEUED for row in tuned)
    parts = [f"{live} training"] if live else []
    if waiting:
        parts.append(f"{waiting} waiting")
    return ((" · ".join(parts), "dim"),) if parts else ()


def key_line(keys: Sequence[tuple[str, str]], cells: int) -> Line:
    """As many of the keys with their meanings as fit; the last ones stay."""
    parts = [((f" {key}", "accent"), (f" {meaning} ", "dim")) for key, meaning in keys]
    while len(parts) > 2 and sum(width(part) for part in parts) > cells:
        del parts[-3]
    return tuple(piece for part in parts for piece in part)


def banner_lines(snapshot: Snapshot, at_utc: float, now: float, read_error: str) -> list[Line]:
    """What a person should know before anything else; empty when all is well."""
    engine = snapshot.engine
    if read_error:
        return [((f"! {read_error}", "bad"), (" It is read again all the time.", "dim"))]
    if engine.state == "starting":
        return [(("◐ The engine is starting: ", "live"), plain(engine.detail or "a moment"))]
    if engine.state == "late":
        age = None if engine.tick_age_s is None else engine.tick_age_s + max(0.0, now - at_utc)
        return [
            (
                (f"! The engine is not answering, for {present.span(age)} now", "warn"),
                (" — training may be going on; the keeper starts it anew by itself.", ""),
            )
        ]
    if engine.state == "stopped":
        by_you = engine.detail == "stopped by you"
        how = "was stopped by you" if by_you else f"ended by itself: {engine.detail}"
        return [
            (
                (f"■ The engine {how}", "warn"),
                (" — nothing trains, trials wait. ", ""),
                ("E", "accent"),
                (" starts it.", ""),
            )
        ]
    if engine.state == "down":
        return [_down(bool(snapshot.trials))]
    if engine.detail:
        lead = "! Nothing new is started: " if engine.braked else "! "
        return [((lead, "warn"), plain(engine.detail))]
    return []


def _down(trained: bool) -> Line:
    start: Line = (("E", "accent"), (" starts it.", ""))
    if not trained:
        return (("✗ The engine is not running. ", "warn"), *start)
    return (
        ("✗ The engine is not running", "bad"),
        (" — trials may be training on without it; what ended goes on from its last ", ""),
        ("checkpoint once it is back. ", ""),
        *start,
    )
