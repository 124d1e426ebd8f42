"""A box's agent: what it shows of the cards, and how the head dates it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workbench.engine import CardWatch
from workbench.fleet.boxes.agent import BoxAgent
from workbench.fleet.boxes.box_health import newest_reading
from workbench.home import Home
from workbench.machine.cards import Card
from workbench.machine.sampler import CardReading, MachineReading, write_reading
from workbench.store import Store


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "box").make()


def reading_of(uuid: str) -> CardReading:
    card = Card(uuid=uuid, name="CPU card", total_bytes=1 << 30, kind="cpu")
    return CardReading(card=card, free_bytes=1 << 30, used_bytes=0)


def sample(home: Home, at_utc: float) -> None:
    write_reading(home.sample, MachineReading(at_utc=at_utc, cards=(reading_of("cpu-0"),)))


@pytest.mark.parametrize(("age_s", "stalled"), [(0.0, False), (300.0, True)])
def test_cards_that_a_box_has_not_read_lately_count_as_not_read(
    home: Home, age_s: float, stalled: bool
) -> None:
    sample(home, time.time() - age_s)
    seen = newest_reading(BoxAgent(home).look(), now_utc=5_000.0)
    assert (seen.stalled, seen.at_utc, len(seen.cards)) == (stalled, 5_000.0, 1)
    assert ("the driver may hang" in seen.problem) is stalled


def test_boxes_go_on_where_the_heads_own_cards_cannot_be_read(home: Home) -> None:
    store = Store(home.database)
    watch = CardWatch(home, store, None, lambda: [(reading_of("attic:cpu-0"), "")])
    rows = watch()
    store.close()
    assert rows is not None
    assert [row["uuid"] for row in rows] == ["attic:cpu-0"]
