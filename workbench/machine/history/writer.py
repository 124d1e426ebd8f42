"""The writer of minutes: it sums up readings, and writes a minute once the next one begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from workbench.machine.files import write_durably
from workbench.machine.history.minutes import KEPT_MINUTES, MINUTE_S

TRIMMED_AT = 2 * KEPT_MINUTES
"""Lines from which the file is written again with KEPT_MINUTES of them."""

Readings = tuple[float | None, float | None, float | None, float | None]
"""Utilisation in percent, bytes in use, watts and degrees Celsius at one moment."""


class HistoryWriter:
    """A writer that appends to one file, behind the minutes that are there already."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._minute: int | None = None
        self._readings: dict[str, list[Readings]] = {}
        self._lines = path.read_bytes().count(b"\n") if path.exists() else 0

    def add(self, at_utc: float, readings: Mapping[str, Readings]) -> None:
        """Count the readings of cards, by UUID, at one moment in UTC seconds.

        Raises OSError where the minute before cannot be written; it is lost then.
        """
        minute, before = int(at_utc // MINUTE_S), self._minute
        if before not in (None, minute):
            ended, self._readings = self._readings, {}
            self._minute = minute
            self._write(before or 0, ended)
        self._minute = minute
        for uuid, values in readings.items():
            self._readings.setdefault(uuid, []).append(values)

    def _write(self, minute: int, readings: Mapping[str, list[Readings]]) -> None:
        if not readings:
            return
        cards = {uuid: _summed(values) for uuid, values in readings.items()}
        line = json.dumps({"minute": minute, "cards": cards}, separators=(",", ":")) + "\n"
        if self._lines >= TRIMMED_AT:
            kept = self._path.read_text(errors="replace").splitlines(keepends=True)
            write_durably(self._path, "".join([*kept[1 - KEPT_MINUTES :], line]).encode())
            self._lines = KEPT_MINUTES
            return
        with self._path.open("a") as file:
            file.write(line)
        self._lines += 1


def _summed(values: list[Readings]) -> list[float | None]:
    """Return mean utilisation, most bytes, mean power and highest temperature."""
    utilisation, used, power, heat = (
        [one for one in column if one is not None] for column in zip(*values, strict=True)
    )
    return [_mean(utilisation), max(used, default=None), _mean(power), max(heat, default=None)]


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None
