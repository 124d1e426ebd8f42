"""Events as rows of a list and as lines of a log."""

from __future__ import annotations

from collections.abc import Sequence

from tui import present
from tui.paint import Line, plain_part
from tui.widgets.columns import Column
from tui.widgets.lazy_rows import ListRow
from workbench import formatting
from workbench.service import EventRow

COLUMNS = (
    Column(title="when", width=8),
    Column(title="", width=1),
    Column(title="level", width=7, drop=1),
    Column(title="trial", width=5),
    Column(title="what", width=11, drop=2),
    Column(title="", width=37, grow=1),
)
TONES = {"error": "bad", "warning": "warn", "debug": "dim"}


def event_rows(events: Sequence[EventRow]) -> list[ListRow]:
    """Return a row for each event, its text cut to one line."""
    return [
        ListRow(
            event.id,
            (
                ((formatting.clock(event.at_utc), "dim"),),
                (present.level_glyph(event.level),),
                (plain_part(event.level, TONES.get(event.level, "dim")),),
                ((f"#{event.trial}" if event.trial is not None else "", ""),),
                (plain_part(event.kind, "dim", 16),),
                (plain_part(event.text, TONES.get(event.level, "")),),
            ),
        )
        for event in events
    ]


def log_lines(events: Sequence[EventRow]) -> list[Line]:
    """Return a line for each event, with up to 2,000 characters of text, to be wrapped."""
    return [
        (
            (formatting.clock(event.at_utc), "faint"),
            (" ", ""),
            present.level_glyph(event.level),
            (" ", ""),
            plain_part(event.text, TONES.get(event.level, ""), 2_000),
        )
        for event in events
    ]


LEVELS = ("info", "warning", "error", "debug")
"""The least levels that the list can be cut to, in the order in which a key turns them."""
RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
"""The levels, the graver the higher."""


def at_least(events: Sequence[EventRow], level: str, besides: str = "") -> list[EventRow]:
    """Return the events of that level and above, and those of the kind `besides`.

    An event of an unknown level counts as `info`.
    """
    least = RANKS[level]
    return [
        event for event in events if event.kind == besides or RANKS.get(event.level, 1) >= least
    ]
