"""The lines of a trial's log, and the search in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tui import present
from tui.paint import Line, Part, line_text, plain_part
from tui.tables.events import TONES, at_least
from workbench import formatting
from workbench.service import EventRow

INDENT = 11
"""Cells before the text of a line: its time and the glyph of its level."""
PROGRESS = "progress"
"""The kind of events about steps, which stand in a trial's log although their level is debug."""
_MOST = 4_000
"""Characters of one line that are shown."""

Entry = tuple[tuple[int, int], Line]
"""A line with its key: the event's id and the line's number in it."""


def log_entries(events: Sequence[EventRow], level: str) -> list[Entry]:
    """Return the lines of all events of that level and above; text of several lines gives several.

    `info` has the trial's steps too. The time and the level stand before an event's first line.
    """
    shown = at_least(events, level, besides=PROGRESS if level == "info" else "")
    return [
        ((event.id, n), (*_lead(event, n), plain_part(text, TONES.get(event.level, ""), _MOST)))
        for event in shown
        for n, text in enumerate(event.text.splitlines() or [""])
    ]


def _lead(event: EventRow, n: int) -> Line:
    if n:
        return ((" " * INDENT, ""),)
    clock = formatting.clock(event.at_utc)
    return ((clock, "faint"), (" ", ""), present.level_glyph(event.level), (" ", ""))


def search_pattern(text: str) -> re.Pattern[str] | None:
    """Return the pattern that finds `text`; None for an empty one.

    It is a regular expression where it is one. Case counts as soon as a capital letter is typed.
    """
    if not text:
        return None
    case = 0 if any(letter.isupper() for letter in text) else re.IGNORECASE
    try:
        return re.compile(text, case)
    except (re.error, RecursionError):
        return re.compile(re.escape(text), case)


def matching(entries: Iterable[Entry], pattern: re.Pattern[str] | None) -> list[int]:
    """Return the places of the entries in which the pattern is found."""
    if pattern is None:
        return []
    return [n for n, (_, line) in enumerate(entries) if pattern.search(line_text(line))]


def mark_matches(line: Line, pattern: re.Pattern[str]) -> Line:
    """Return the line with every match of the pattern in the accent's tone."""
    spans = [found.span() for found in pattern.finditer(line_text(line)) if found.group()]
    if not spans:
        return line
    out: list[Part] = []
    at = 0
    for text, tone in line:
        cuts = sorted({c - at for span in spans for c in span if 0 < c - at < len(text)})
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            inside = any(low <= at + start < high for low, high in spans)
            out.append((text[start:end], "accent" if inside else tone))
        at += len(text)
    return tuple(out)
