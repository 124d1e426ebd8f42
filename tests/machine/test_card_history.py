"""The last day of each card: minutes are summed up, read again, and trimmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from workbench.machine.history.minutes import KEPT_MINUTES, HistoryReader
from workbench.machine.history.writer import TRIMMED_AT, HistoryWriter

NOON = 1_763_900_040.0
"""A time at the beginning of a minute."""
CARD = "GPU-1"


def write(path: Path, *minutes: int) -> None:
    """Write one reading in each of these minutes after NOON, and one in the minute behind them."""
    writer = HistoryWriter(path)
    for minute in (*minutes, minutes[-1] + 1):
        writer.add(NOON + 60 * minute, {CARD: (50.0, 1_000, 200.0, 60.0)})


def test_a_minute_holds_means_and_highest_values(tmp_path: Path) -> None:
    writer, reader = HistoryWriter(tmp_path / "h"), HistoryReader(tmp_path / "h")
    writer.add(NOON, {CARD: (90.0, 3_000, 200.0, 60.0)})
    writer.add(NOON + 30, {CARD: (10.0, 9_000, 100.0, 71.0)})
    assert reader.minutes(CARD, NOON + 40) == ()  # the minute is not over
    writer.add(NOON + 60, {CARD: (None, None, None, None)})
    writer.add(NOON + 120, {})
    first, second = reader.minutes(CARD, NOON + 120)
    assert (first.utilisation, first.used_bytes) == (50.0, 9_000)
    assert (first.power_w, first.temperature_c) == (150.0, 71.0)
    assert second.minute == first.minute + 1
    assert second.utilisation is second.used_bytes is second.power_w is None


def test_a_reader_goes_on_where_it_was_and_forgets_the_day_before(tmp_path: Path) -> None:
    reader = HistoryReader(tmp_path / "h")
    assert reader.minutes(CARD, NOON) == ()
    write(tmp_path / "h", 0, 1)
    assert len(reader.minutes(CARD, NOON + 120)) == 2
    write(tmp_path / "h", 2)
    assert len(reader.minutes(CARD, NOON + 180)) == 3
    assert [one.minute for one in reader.minutes(CARD, NOON + 60 * (KEPT_MINUTES + 1))] == [
        int(NOON // 60) + 2
    ]
    assert reader.minutes("another", NOON + 120) == ()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"minute":1}', '{"minute":"x","cards":{"a":[1]}}', "é"]
)
def test_a_line_that_cannot_be_read_is_left_out(tmp_path: Path, text: str) -> None:
    write(tmp_path / "h", 0)
    with (tmp_path / "h").open("a") as file:
        file.write(f"{text}\n")
    write(tmp_path / "h", 3)
    assert len(HistoryReader(tmp_path / "h").minutes(CARD, NOON + 300)) == 2


def test_the_file_is_trimmed_to_a_day(tmp_path: Path) -> None:
    first = int(NOON // 60) - TRIMMED_AT
    lines = [
        json.dumps({"minute": first + n, "cards": {CARD: [1, 2, 3, 4]}}) for n in range(TRIMMED_AT)
    ]
    (tmp_path / "h").write_text("\n".join(lines) + "\n")
    reader = HistoryReader(tmp_path / "h")
    assert len(reader.minutes(CARD, NOON)) == KEPT_MINUTES - 1
    write(tmp_path / "h", 0)
    assert (tmp_path / "h").read_text().count("\n") == KEPT_MINUTES
    assert len(reader.minutes(CARD, NOON)) == KEPT_MINUTES
