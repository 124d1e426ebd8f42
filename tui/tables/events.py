"""Events as rows and as the tail of a log."""

from __future__ import annotations

from collections.abc import Sequence

from tui import present
from tui.paint import Line, plain
from tui.widgets.rowlist import Column, Row
from workbench.service import EventRow

COLUMNS = (
    Column(title="when", width=8),
    Column(title="", width=1),
    Column(title="level", width=7, drop=1),
    Column(title="trial", width=5),
    Column(title="what", width=11, drop=2),
    Column(title="", width=44, grow=1),
)
_TONES = {"error": "bad", "warning": "warn", "debug": "dim"}


def rows(events: Sequence[EventRow]) -> list[Row]:
    return [
        Row(
            event.id,
            (
                ((present.clock(event.at_utc), "dim"),),
                (present.level(event.level),),
                (plain(event.level, _TONES.get(event.level, "dim")),),
                ((f"#{event.trial}" if event.trial is not None else "", ""),),
                (plain(event.kind, "dim", 16),),
                (plain(event.text, _TONES.get(event.level, "")),),
            ),
        )
        for event in events
    ]


def lines(events: Sequence[EventRow]) -> list[Line]:
    """As the tail of a log, to be wrapped."""
    return [
        (
            (present.clock(event.at_utc), "faint"),
            (" ", ""),
            present.level(event.level),
            (" ", ""),
            plain(event.text, _TONES.get(event.level, ""), 2_000),
        )
        for event in events
    ]


def matches(event: EventRow, wanted: str) -> bool:
    trial = "" if event.trial is None else f"#{event.trial}"
    text = f"{event.level} {event.kind} {trial} {event.text}".lower()
    return all(word in text for word in wanted.lower().split())
