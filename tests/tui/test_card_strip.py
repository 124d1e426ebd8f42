"""The cards above the dashboard: numbers that tell two of a kind apart, sixteen in eight lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.tui.conftest import press_and_settle, shown, text
from tests.tui.filled import CARDS, HERE_3090, NOW, THERE_3090
from tui.curves.area import card_areas
from tui.paint import Line, line_text, line_width
from tui.tables.card_strip import strip_rows
from tui.tables.cards import card_facts, card_rows, number_order, used_bytes
from workbench.home import Home
from workbench.scheduler.guards.card_samples import see_sample
from workbench.service import CardMinute, CardRow, Service
from workbench.store.writer import Store

SLOTS = {uuid: (number, f"00000000:{number:02x}:00.0") for number, (uuid, *_) in enumerate(CARDS)}


def sample(home: Home, number: int | None = 0) -> None:
    """Take one more sample as the engine does, with numbers and slots."""
    store = Store(home.database, clock=lambda: NOW)
    seen: list[dict[str, Any]] = [
        {
            "uuid": uuid,
            "kind": "cuda",
            "name": name,
            "total_bytes": gib << 30,
            "index": number if number is None else SLOTS[uuid][0],
            "bus": SLOTS[uuid][1],
        }
        for uuid, name, gib, _ in CARDS
    ]
    see_sample(store, {}, {}, seen)
    store.close()


def test_a_sample_keeps_numbers_and_slots(home: Home) -> None:
    sample(home)
    service = Service(home)
    assert service.snapshot().slots == SLOTS
    sample(home, None)
    assert service.snapshot().slots == {}
    service.close()


async def test_two_cards_of_one_model_are_told_apart(running: Home) -> None:
    sample(running)
    async with shown(running, 80, 24) as (app, pilot):
        assert "1 RTX 3090" in text(app)
        assert "2 RTX 3090" in text(app)
        await press_and_settle(app, pilot, "5", "down")
        assert "1, slot 00000000:01:00.0" in text(app)


def many(home: Home, count: int) -> list[CardRow]:
    service = Service(home)
    found = service.snapshot()
    service.close()
    cards = number_order(found.cards, SLOTS)
    return [replace(cards[n % 4], uuid=f"GPU-{n:02}") for n in range(count)]


@pytest.mark.parametrize("cells", [58, 78, 118, 158])
def test_sixteen_cards_fit_in_eight_lines(home: Home, cells: int) -> None:
    cards = many(home, 16)
    slots = {card.uuid: (n, "") for n, card in enumerate(cards)}
    columns, rows = strip_rows(cards, {}, NOW, slots, cells, 8)
    assert len(rows) == 8
    assert len(columns) == 2
    lines: list[Line] = [cell for row in rows for cell in row.cells if isinstance(cell, tuple)]
    assert sorted(int(line_text(line).split()[0]) for line in lines) == list(range(16))
    assert all(line_width(line) <= columns[0].width for line in lines)
    busy = next(line_text(line) for line in lines if "4090" in line_text(line))
    assert all(word in busy for word in ("97%", "15/24G"))
    if cells >= 78:
        assert "71°C" in busy
    if cells >= 118:
        assert "402W" in busy


def test_the_used_memory_of_a_cpu_card_is_not_measured(home: Home) -> None:
    gpu = replace(many(home, 1)[0], free_bytes=1 << 30, total_bytes=4 << 30, seen_utc=NOW)
    cpu = replace(gpu, uuid="cpu-0", kind="cpu", name="CPU card 0", free_bytes=4 << 30)
    assert (used_bytes(gpu, NOW), used_bytes(cpu, NOW)) == (3 << 30, None)
    _, (row,) = strip_rows([cpu], {}, NOW, {}, 80, 8)
    assert "-/4G" in shown_text(row.cells)
    (row,) = card_rows([cpu], [], NOW)
    assert "-/4.0 GiB" in shown_text(row.cells)
    facts = [line_text(line) for line in card_facts(cpu, None, NOW, {}, None)]
    assert not [line for line in facts if "GiB free" in line]
    minutes = [
        CardMinute(minute=1, utilisation=50.0, used_bytes=0, power_w=None, temperature_c=None)
    ]
    assert [area.name for area in card_areas(minutes, cpu)] == ["busy"]
    assert [area.name for area in card_areas(minutes, gpu)] == ["busy", "memory"]


def shown_text(cells: Sequence[object]) -> str:
    """Return the text of the cells that are lines."""
    return "".join(line_text(cell) for cell in cells if isinstance(cell, tuple))


def test_cards_are_ordered_as_nvidia_smi_numbers_them(home: Home) -> None:
    service = Service(home)
    cards = service.snapshot().cards
    service.close()
    assert [card.uuid for card in number_order(cards, SLOTS)] == [card[0] for card in CARDS]
    assert SLOTS[HERE_3090] != SLOTS[THERE_3090]


async def test_a_card_that_fell_off_the_bus_is_said_and_not_measured(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.db.execute("update cards set present = 0 where uuid = ?", (HERE_3090,))
    store.close()
    async with shown(running, 60, 16) as (app, pilot):
        for size in ((60, 16), (80, 24)):
            await pilot.resize_terminal(*size)
            await press_and_settle(app, pilot, "1")
            assert "─Cards · 1 absent · 2 of 3 cards used" in text(app)
            assert "✗ absent" in text(app)
            await press_and_settle(app, pilot, "5", "home", "j")
            assert "2 of 3 busy · 1 absent" in text(app)
            whole = " ".join(text(app).split())
            assert "the driver no longer reports it" in whole
            assert "temperature" not in whole
            assert "GiB free" not in whole
