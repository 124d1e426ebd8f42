"""Output to the terminal: answers on stdout, narration on stderr, tables, JSON.

Text from files, models and users loses control characters and escape sequences here, even if it
lost them before.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TextIO

from workbench.text import safe_line, safe_text
from workbench.text.redact import redact

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


def print_answer(text: str = "", colour: str = "") -> None:
    """Print one or more lines of the answer on stdout."""
    _write(sys.stdout, text, colour)


def print_note(text: str, colour: str = "") -> None:
    """Print a line of narration on stderr."""
    _write(sys.stderr, text, colour)


def as_json(value: Any) -> None:
    """Print the answer for programs: sorted keys, and plain ASCII, so no escape sequence acts."""
    sys.stdout.write(_json_text(value, indent=2) + "\n")


def json_line(value: Any) -> None:
    """Print one JSON object on a line of its own, at once: for output that is followed live."""
    sys.stdout.write(_json_text(value) + "\n")
    sys.stdout.flush()


def _json_text(value: Any, indent: int | None = None) -> str:
    plain = _without_nan(_with_old_keys(value))
    return redact(json.dumps(plain, indent=indent, sort_keys=True, default=str, allow_nan=False))


def _without_nan(value: Any) -> Any:
    """Return the value with null for each number that JSON does not have: NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return value


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
    stream.write(colour_text(safe_text(text, LONG), colour, stream) + "\n")
    stream.flush()


def colour_text(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return `text` in a colour where the stream is a terminal that shows colours."""
    stream = stream or sys.stdout
    if not colour or not text or not wants_colour(stream):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """Return whether the stream is a terminal that shows colours.

    Any non-empty NO_COLOR turns colour off (no-color.org), and so does TERM=dumb.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return stream.isatty() and not plain


UNCUT = 10_000
"""Columns assumed where there is no terminal and no COLUMNS: lines are never cut."""


NAME_CELLS = 24
"""Columns that a text keeps where a table is too wide, besides its flexible column."""


def terminal_width() -> int:
    """Return the terminal's columns, at least 40; UNCUT without a terminal and without COLUMNS."""
    return max(40, shutil.get_terminal_size((UNCUT, 24)).columns)


def count_cells(text: str) -> int:
    """Return the columns that `text` takes: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def cut_to_width(text: str, columns: int) -> str:
    """Return `text` cut to at most `columns`, ending in `…` where something was cut off."""
    if count_cells(text) <= columns:
        return text
    kept, used = [], 1
    for character in text:
        used += count_cells(character)
        if used > columns:
            break
        kept.append(character)
    return "".join(kept) + "…" if columns > 0 else ""


def format_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[str] = (),
    flexible: str = "",
    optional: Sequence[str] = (),
    dear: Sequence[str] = (),
    colour: Callable[[str], str] = lambda cell: STATE_COLOURS.get(cell, ""),
) -> list[str]:
    """Return aligned lines, heads first, no wider than the terminal.

    `right` names the heads of right-aligned columns. A column named in `optional` is left out where
    all its cells are `-`; where lines are still too wide, more optional columns are left out in
    the order given. One in `dear` is left out only where lines are too wide without the longest
    fifth of the texts in the column named `flexible`, by default the last one. Then texts longer
    than NAME_CELLS, such as names of experiments, are cut to that. Last, the flexible column is cut
    to fit.
    """
    text = [[safe_line(cell) for cell in row] for row in rows]
    widths = [max(count_cells(line[n]) for line in [list(heads), *text]) for n in range(len(heads))]
    kept = list(range(len(heads)))
    empty = [head for n, head in enumerate(heads) if text and all(row[n] == "-" for row in text)]
    usual, last = list(widths), list(heads).index(flexible or heads[-1])
    if text:
        cells = sorted(count_cells(line[last]) for line in text)
        usual[last] = max(count_cells(heads[last]), cells[max(0, len(cells) * 4 // 5 - 1)])
    for head in sorted(optional, key=lambda head: head not in empty):
        needed = usual if head in dear else widths
        if head in empty or _total(needed, kept) > terminal_width():
            kept.remove(list(heads).index(head))
    names = [n for n in kept if n != last and heads[n] not in right]
    for n in [*sorted(names, key=lambda n: -widths[n]), last]:
        least = 8 if n == last else NAME_CELLS
        over = max(0, _total(widths, kept) - terminal_width())
        widths[n] = min(widths[n], max(least, widths[n] - over))

    def line(row: Sequence[str], paint_cell: Callable[[str], str]) -> str:
        return "  ".join(
            colour_text(
                _pad(cut_to_width(row[n], widths[n]), widths[n], heads[n] in right),
                paint_cell(row[n]),
            )
            for n in kept
        ).rstrip()

    return [line(heads, lambda _: "dim"), *(line(row, colour) for row in text)]


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[n] for n in kept) + 2 * (len(kept) - 1)


def _pad(text: str, columns: int, right: bool) -> str:
    space = " " * (columns - count_cells(text))
    return space + text if right else text + space


def out_table(heads: Sequence[str], rows: Sequence[Sequence[object]], **how: Any) -> None:
    """Print a table as the answer. Cells are made safe first, so only our own colours remain."""
    sys.stdout.write("\n".join(format_table(heads, rows, **how)) + "\n")
