"""States and event levels as toned glyphs for the screen.

Numbers, times and settings have their text from `workbench.formatting`, which the command line
uses too: a value reads the same in both.
"""

from __future__ import annotations

from tui.paint import Line, Part, plain_part
from workbench import formatting
from workbench.adapters.subjects import is_test
from workbench.service import TrialRow
from workbench.trial import Kind, State

_STATE_GLYPHS: dict[State, Part] = {
    State.QUEUED: ("○", "dim"),
    State.STARTING: ("◐", "live"),
    State.RUNNING: ("●", "live"),
    State.PAUSED: ("‖", "warn"),
    State.DONE: ("✓", "good"),
    State.STOPPED: ("■", "dim"),
    State.PRUNED: ("⊘", "dim"),
    State.FAILED: ("✗", "bad"),
}
_LEVEL_GLYPHS: dict[str, Part] = {
    "debug": ("·", "faint"),
    "info": ("·", "dim"),
    "warning": ("!", "warn"),
    "error": ("✗", "bad"),
}


def is_counted(row: TrialRow) -> bool:
    """Return whether a trial is one of those that `workbench ls` and `engine status` count.

    The base, and scores on test rows, belong to other trials.
    """
    if row.kind is Kind.SCORE:
        return not is_test(row.settings)
    return row.kind is Kind.TUNE


def trial_state(row: TrialRow) -> Line:
    """Return the glyph of a trial's state, and the word of `formatting.state_word`."""
    glyph, tone = _STATE_GLYPHS[row.state]
    return ((glyph, tone), (" ", ""), (formatting.state_word(row), tone))


def named_state(state: str, reason: str = "") -> Line:
    """Return glyph and word of a state known by its name; an unknown name stays a plain word.

    `reason` is the trial's, which distinguishes a kill from a stop.
    """
    try:
        glyph, tone = _STATE_GLYPHS[State(state)]
    except ValueError:
        return (plain_part(state),)
    return ((glyph, tone), (" ", ""), (formatting.outcome_word(state, reason), tone))


def level_glyph(level: str) -> Part:
    """Return the glyph of an event's level."""
    return _LEVEL_GLYPHS.get(level, ("·", "dim"))


def done_share(row: TrialRow) -> float | None:
    """Return the share of steps that are done, from 0 to 1; None while the total is not known."""
    if not row.total_steps:
        return None
    return min(1.0, row.step / row.total_steps)


def known_or_faint(text: str, tone: str = "") -> Line:
    """Return `text` in `tone`, or faint where it says that the value is not known."""
    return ((text, "faint" if text == formatting.UNKNOWN else tone),)
