"""What goes to the terminal: answers on stdout, narration on stderr, tables, JSON.

Foreign text is made harmless here once more, whatever way it took.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TextIO

from workbench.redact import redact
from workbench.text import safe, safe_line

LONG = 1 << 22
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}
STATE_COLOURS = {
    "running": "cyan",
    "starting": "cyan",
    "done": "green",
    "failed": "red",
    "paused": "yellow",
    "stopped": "yellow",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
}


def out(text: str = "", colour: str = "") -> None:
    """A line (or several) of the answer."""
    _write(sys.stdout, text, colour)


def tell(text: str, colour: str = "") -> None:
    """A line of narration, on stderr."""
    _write(sys.stderr, text, colour)


def as_json(value: Any) -> None:
    """Print the answer for programs: sorted keys, and plain ASCII, so no escape sequence acts."""
    text = json.dumps(_with_old_keys(value), indent=2, sort_keys=True, default=str)
    sys.stdout.write(redact(text) + "\n")


_OLD_KEYS = {"hint": "mend", "desired_state": "wanted", "desired_card": "wanted_card"}
"""Keys renamed since the first builds. The old ones are printed beside the new until 0.1.0."""


def _with_old_keys(value: Any) -> Any:
    """Return `value` as JSON values, with each renamed key under its old name too."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        found = {key: _with_old_keys(one) for key, one in value.items()}
        old = {_OLD_KEYS[key]: one for key, one in found.items() if key in _OLD_KEYS}
        return {**old, **found}
    if isinstance(value, list | tuple):
        return [_with_old_keys(one) for one in value]
    return value


def _write(stream: TextIO, text: str, colour: str) -> None:
    stream.write(paint(safe(text, LONG), colour, stream) + "\n")
    stream.flush()


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Coloured where the stream is a terminal that wants colour; the words say it all anyway."""
    stream = stream or sys.stdout
    if not colour or not text or not wants_colour(stream):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """See no-color.org: any non-empty NO_COLOR turns it off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not plain


UNCUT = 10_000


def width() -> int:
    """Columns of the terminal; without one, and without COLUMNS, lines are as long as they are."""
    return max(40, shutil.get_terminal_size((UNCUT, 24)).columns)


def cells(text: str) -> int:
    """Columns `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def cut(text: str, columns: int) -> str:
    """`text` in at most so many columns, with `…` where something is missing."""
    if cells(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += cells(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    flexible: int = -1,
    optional: Sequence[str] = (),
    colour: Callable[[str], str] = lambda cell: STATE_COLOURS.get(cell, ""),
) -> list[str]:
    """Aligned lines of at most the terminal's width, heads first.

    `right`: heads of the columns flush right. `optional` columns are left out where nothing is
    known of any row; where a line would be too long, the others of them, first named first. Then
    the `flexible` one is cut.
    """
    text = [[safe_line(cell) for cell in row] for row in rows]
    widths = [max(cells(line[n]) for line in [list(heads), *text]) for n in range(len(heads))]
    kept = list(range(len(heads)))
    empty = [head for n, head in enumerate(heads) if text and all(row[n] == "-" for row in text)]
    for head in sorted(optional, key=lambda head: head not in empty):
        if head in empty or _total(widths, kept) > width():
            kept.remove(list(heads).index(head))
    over = _total(widths, kept) - width()
    if over > 0:
        widths[flexible] = max(8, widths[flexible] - over)

    def line(row: Sequence[str], paint_cell: Callable[[str], str]) -> str:
        return "  ".join(
            paint(_pad(cut(row[n], widths[n]), widths[n], heads[n] in right), paint_cell(row[n]))
            for n in kept
        ).rstrip()

    return [line(heads, lambda _: "dim"), *(line(row, colour) for row in text)]


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[n] for n in kept) + 2 * (len(kept) - 1)


def _pad(text: str, columns: int, right: bool) -> str:
    space = " " * (columns - cells(text))
    return space + text if right else text + space


def out_table(heads: Sequence[str], rows: Sequence[Sequence[object]], **how: Any) -> None:
    """A table as the answer; its cells are safe and its colours are ours."""
    sys.stdout.write("\n".join(table(heads, rows, **how)) + "\n")
