"""The cards of a cluster: grouped by machine, filtered by it, and quick where there are many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tui.conftest import check_golden, press_and_settle, settled, shown, text
from tests.tui.filled import NOW
from tui.paint import line_text
from tui.tables import boxes
from tui.widgets.rowlist import RowList
from workbench.cluster.settings import boxes_file, write_json
from workbench.home import Home
from workbench.service import CardRow, Service
from workbench.store import card_table
from workbench.store.writer import Store

LOW = "the disk of box attic has 1.0 GiB left, below 2.0 GiB (guards.disk_floor)"


@pytest.fixture
def cluster(running: Home) -> Home:
    """The filled home's own four cards, two boxes of two cards, and one that is lost."""
    store = Store(running.database, clock=lambda: NOW)
    own: list[dict[str, object]] = [
        {"uuid": one.uuid, "kind": one.kind, "name": one.name, "total_bytes": one.total_bytes}
        for one in store.cards()
    ]
    card_table.record_cards(store, [*own, *(gpu("lost", at) for at in range(2))])
    attic = [gpu("attic", at, problem=LOW) for at in range(2)]
    card_table.record_cards(store, [*own, *attic, *(gpu("cellar", at) for at in range(2))])
    store.note("box", "box lost is lost; its trials go on elsewhere", level="warning")
    store.note("box", "box cellar is back")
    store.close()
    listed = [
        {"box": "attic", "address": "10.0.0.2", "state": "unusable", "problem": LOW, "skew_s": 0.1},
        {
            "box": "cellar",
            "address": "10.0.0.3",
            "state": "up",
            "free_bytes": 90 << 30,
            "skew_s": -7.2,
            "sent_bytes": 3 << 30,
            "to_send_bytes": 15 << 30,
        },
        {"box": "lost", "address": "10.0.0.4", "state": "lost"},
    ]
    write_json(boxes_file(running), {"at_utc": NOW, "boxes": listed})
    return running


def gpu(box: str, at: int, problem: str = "") -> dict[str, object]:
    return {
        "uuid": f"{box}:GPU-{at:04x}0000-{box}",
        "kind": "cuda",
        "name": "NVIDIA GeForce RTX 4090",
        "total_bytes": 24 << 30,
        "free_bytes": 20 << 30,
        "problem": problem,
    }


async def test_cards_stand_below_their_machine(cluster: Home) -> None:
    async with shown(cluster, 60, 16) as (app, pilot):
        await press_and_settle(app, pilot, "5")
        for width, height in ((60, 16), (80, 24), (160, 50)):
            await pilot.resize_terminal(width, height)
            await settled(app, pilot)
            check_golden(app, f"cards-cluster-{width}x{height}")


async def test_a_machines_line_shows_its_facts_and_filters_by_it(cluster: Home) -> None:
    async with shown(cluster, 100, 40) as (app, pilot):
        await press_and_settle(app, pilot, "5")
        rows = app.screen.query_one("#cards", RowList)
        rows.to_key("cellar:")
        await settled(app, pilot)
        for fact in ("10.0.0.3", "90.0 GiB", "-7.2 s from the head's", "3.0 GiB of 15.0 GiB sent"):
            assert fact in text(app)
        await press_and_settle(app, pilot, "enter")
        assert [row.key for row in rows.rows] == ["cellar:", *sorted(cards_of(cluster, "cellar"))]
        assert "2 shown · filter: box:cellar" in text(app)
        await press_and_settle(app, pilot, "enter")
        assert "filter: " not in text(app)


async def test_events_name_boxes_that_are_lost_and_back(cluster: Home) -> None:
    async with shown(cluster, 100, 40) as (app, pilot):
        await press_and_settle(app, pilot, "6")
        assert "box lost is lost; its trials go on elsewhere" in text(app)
        assert "box cellar is back" in text(app)


def cards_of(home: Home, box: str) -> list[str]:
    service = Service(home)
    found = [card.uuid for card in service.snapshot().cards if card.uuid.startswith(f"{box}:")]
    service.close()
    return found


@pytest.fixture
def many(cluster: Home) -> list[CardRow]:
    """The cards of 64 boxes with 8 each."""
    service = Service(cluster)
    one = next(c for c in service.snapshot().cards if c.uuid.startswith("cellar:"))
    service.close()
    return [
        replace(one, uuid=f"box-{box:02}:GPU-{at}", present=box != 63)
        for box in range(64)
        for at in range(8)
    ]


def test_of_512_cards_only_those_in_sight_are_built(many: list[CardRow]) -> None:
    rows, count = boxes.grouped_rows(boxes.box_groups(many), [], NOW, {}, "")
    assert (len(rows), count) == (64 + 512, 512)
    assert [row.key for row in rows[:2]] == ["box-00:", "box-00:GPU-0"]
    assert sum(rows.built(at) is not None for at in range(len(rows))) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("box:box-07", ["box-07:", *(f"box-07:GPU-{at}" for at in range(8))]),
        ("box:box-0[12] gpu-3", ["box-01:", "box-01:GPU-3", "box-02:", "box-02:GPU-3"]),
        ("box-07 !gpu-[1-7]", ["box-07:", "box-07:GPU-0"]),
        ("box:nowhere", []),
    ],
)
def test_a_filter_keeps_the_line_of_a_machine_that_has_a_card_left(
    many: list[CardRow], words: str, expected: list[str]
) -> None:
    rows, count = boxes.grouped_rows(boxes.box_groups(many, words), [], NOW, {}, words)
    assert list(rows.keys) == expected
    assert count == sum(not key.endswith(":") for key in expected)


def test_the_dashboard_shows_machines_in_trouble_first_and_counts_the_rest(
    many: list[CardRow],
) -> None:
    columns, rows = boxes.strip_of_boxes(boxes.box_groups(many), 158, 8)
    cells = [line_text(cell) for row in rows for cell in row.cells if isinstance(cell, tuple)]
    assert (len(columns), len(rows), len(cells)) == (4, 8, 32)
    assert "box-63" in cells[0]
    assert "✗ not connected" in cells[0]
    assert "and 33 more machines" in cells[-1]
