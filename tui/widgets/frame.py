"""The lines above and below every view: the list of views, the engine's state, banner, keys."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import Line, Part, line_width, plain_part
from tui.view_state import ViewState
from tui.widgets import strips
from workbench import formatting
from workbench.service import EngineStatus, Snapshot
from workbench.text import safe_line

VIEWS = ("Dashboard", "Trials", "Queue", "Board", "Cards", "Events")

_ENGINE: dict[str, Part] = {
    "running": ("● engine running", "good"),
    "starting": ("◐ engine starting", "live"),
    "late": ("! engine not answering", "warn"),
    "stopping": ("◐ engine stopping", "live"),
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


def counts_line(view_state: ViewState) -> Line:
    """Return `●3 ○12 ✗1`: live and waiting trials, and failures nobody has looked at.

    The base is not counted, as on the command line.
    """
    parts: list[Part] = [
        (f"●{view_state.live}", "live" if view_state.live else "faint"),
        (" ", ""),
        (f"○{view_state.waiting}", "dim" if view_state.waiting else "faint"),
    ]
    if failed := view_state.unseen_failures:
        parts += [(" ", ""), (f"✗{failed}", "bad")]
    return tuple(parts)


def top_line(here: str, snapshot: Snapshot | None, cells: int, counts: Line = ()) -> Line:
    """Return the views with their digits; at the right the counts, and the engine's state.

    The counts stand there at every width. Where space is short, the state is one word, then the
    names of the views stand closer, then only the present view keeps its name. The word goes last.
    """
    wide, close, bare = _views(here), _views(here, after=""), _views(here, names=False)
    if snapshot is None:
        return wide
    state, gap = _ENGINE[snapshot.engine.state], (("  ", ""),)
    whole = (*counts, *gap, state)
    word = (*counts, *gap, _short(snapshot.engine))
    glyph = (*counts, *gap, (state[0][0], state[1]))
    for views, right in (
        *((views, right) for views in (wide, close) for right in (whole, word)),
        *((bare, right) for right in (whole, word, glyph, counts)),
    ):
        room = cells - line_width(views) - line_width(right) - 1
        if room >= 1:
            return (*views, (" " * room, ""), *right, (" ", ""))
    return counts


def _views(here: str, *, names: bool = True, after: str = " ") -> Line:
    """Return the views, each name with `after` behind it; without `names` only the present one."""
    views: list[Part] = []
    for digit, name in enumerate(VIEWS, start=1):
        on = name == here
        views.append((f" {digit}", "accent" if on else "faint"))
        if names or on:
            views.append((f" {name}{after}", "accent" if on else "dim"))
    return tuple(views)


def _short(engine: EngineStatus) -> Part:
    text, tone = _ENGINE[engine.state]
    return (text.replace("engine ", "").replace("not answering", "late"), tone)


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
        return [((f"! {read_error}", "bad"), (". The screen keeps trying to read it.", "dim"))]
    if engine.state == "starting":
        return [(("◐ The engine is starting: ", "live"), plain_part(engine.detail or "a moment"))]
    if engine.state == "stopping":
        return [(("◐ The engine is stopping: ", "live"), plain_part(engine.detail))]
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
