"""The minutes of cards: what one holds, and a reader of their file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINUTE_S = 60
KEPT_MINUTES = 24 * 60
"""Minutes that a reader gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMinute:
    """One minute of one card; None for a value that the card does not report."""

    minute: int
    """Minutes since the epoch."""
    utilisation: float | None
    """Mean, in percent."""
    used_bytes: int | None
    """The most bytes in use."""
    power_w: float | None
    """Mean, in watts."""
    temperature_c: float | None
    """The highest, in degrees Celsius."""


class HistoryReader:
    """A reader of the file that parses again only what was added since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._offset = 0, 0
        self._minutes: dict[str, dict[int, CardMinute]] = {}

    def minutes(self, uuid: str, now: float) -> tuple[CardMinute, ...]:
        """Return the card's minutes of the last day, oldest first; empty where there are none.

        `now` is in UTC seconds. A line that cannot be read is left out. Raises nothing.
        """
        with suppress(OSError):
            self._read_on()
        last = int(now // MINUTE_S)
        found = self._minutes.get(uuid, {})
        return tuple(found[at] for at in sorted(found) if last - KEPT_MINUTES < at <= last)

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            about = self._path.stat()
            if about.st_ino != self._inode or about.st_size < self._offset:
                self._inode, self._offset, self._minutes = about.st_ino, 0, {}
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the writer may be within a line
        self._offset += len(whole)
        for uuid, minute in _parsed(whole.splitlines()):
            self._minutes.setdefault(uuid, {})[minute.minute] = minute


def _parsed(lines: Iterable[bytes]) -> Iterable[tuple[str, CardMinute]]:
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            data = json.loads(line)
            for uuid, values in data["cards"].items():
                yield str(uuid), _minute(int(data["minute"]), values)


def _minute(minute: int, values: list[Any]) -> CardMinute:
    utilisation, used, power, heat = (None if one is None else float(one) for one in values)
    return CardMinute(
        minute=minute,
        utilisation=utilisation,
        used_bytes=None if used is None else int(used),
        power_w=power,
        temperature_c=heat,
    )
