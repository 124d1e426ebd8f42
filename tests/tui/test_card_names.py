"""Cards have their numbers and names in sentences of the engine, never whole UUIDs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.tui.conftest import press_and_settle, settled, shown, text
from tests.tui.filled import (
    FAILED,
    HERE_3090,
    HERE_4090,
    NOW,
    QUEUED,
    RESUMED,
    THERE_3090,
)
from tui.card_names import card_name, card_naming, name_cards
from tui.tables.trials import waiting_for
from workbench.home import Home
from workbench.service import Service, Snapshot
from workbench.store import trial_queue
from workbench.store.writer import Store

WHOLE = re.compile(r"GPU-[0-9a-f]{8}-")


@pytest.fixture
def snapshot(home: Home) -> Snapshot:
    service = Service(home, lambda: NOW)
    found = service.snapshot()
    service.close()
    return found


def test_a_card_is_named_by_its_number_or_by_the_start_of_its_uuid(snapshot: Snapshot) -> None:
    cards, slots = snapshot.cards, snapshot.slots
    assert card_name(HERE_3090, cards, slots) == "card 1 (RTX 3090)"
    assert card_name(HERE_3090, cards, {}) == "RTX 3090 GPU-a02b"
    assert card_name("GPU-gone", cards, slots) == "GPU-gone"
    cpu = replace(cards[0], uuid="cpu-1", kind="cpu", name="CPU card 1")
    named = card_naming(replace(snapshot, cards=[cpu, replace(cpu, uuid="cpu-11", name="eleven")]))
    assert named("cpu-1 runs trial 2; cpu-11 drained") == "CPU card 1 runs trial 2; eleven drained"
    assert card_naming(snapshot)(f"card {HERE_3090} is left alone") == (
        "card 1 (RTX 3090) is left alone"
    )


def test_reasons_to_wait_name_the_cards(snapshot: Snapshot) -> None:
    trials = [
        replace(row, reason=f"{THERE_3090} fell off the bus") if row.id == FAILED else row
        for row in snapshot.trials
    ]
    snapshot = replace(snapshot, trials=trials)
    before = {row.id: row for row in trials}
    after = {row.id: row for row in name_cards(snapshot).trials}
    assert before[QUEUED].waiting.startswith(f"waits for a card: {HERE_4090} runs trial 13")
    assert after[QUEUED].waiting == (
        "waits for a card: card 0 runs trial 13; card 1 runs trial 14; card 2 runs trial 15"
    )
    assert waiting_for(after[QUEUED]).startswith("card 0 runs")
    assert after[FAILED].reason == "card 2 (RTX 3090) fell off the bus"
    assert after[RESUMED] is before[RESUMED]


async def test_no_view_spells_a_whole_uuid_in_a_sentence(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    trial_queue.explain_all(store, f"waits for a card: {HERE_4090} runs trial 13")
    store.note("card", f"{HERE_3090} fell off the bus", level="error")
    store.close()
    async with shown(running, 60, 24) as (app, pilot):
        for digit in "1236":
            await press_and_settle(app, pilot, digit)
            for width in (60, 80, 160):
                await pilot.resize_terminal(width, 24)
                await settled(app, pilot)
                assert not WHOLE.search(text(app)), text(app)
                if digit in "23" and width >= 80:
                    assert "all wait for a card: card 0 runs trial 13" in text(app)
                if digit == "6":
                    assert "card 1 (RTX 3090)" in text(app)
