"""Events by level, card and trial."""

from __future__ import annotations

import pytest

from tests.tui.conftest import press_and_settle, shown, text, until
from tests.tui.filled import HERE_4090, HERE_T4, NOW, THERE_3090
from tui.tables.event_filter import EventFilter, levels_from, read_event_filter, toggle_term
from tui.widgets.rowlist import RowList
from workbench.home import Home
from workbench.service import Service
from workbench.store.writer import Store


async def test_events_are_listed_by_trial_card_and_level(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW - 90_000)
    store.note("xid", f"card {HERE_T4}: Xid 79", level="error")
    store.close()
    async with shown(running, 120, 40) as (app, pilot):
        await press_and_settle(app, pilot, "6")
        rows = app.screen.query_one("#events", RowList)
        assert "warning  #14    " in text(app)
        await press_and_settle(app, pilot, "k", "t")
        await until(pilot, lambda: "filter: trial:14" in text(app))
        assert {row.cells[3] for row in rows.rows} == {(("#14", ""),)}
        await press_and_settle(app, pilot, "t", "k", "C")
        await until(pilot, lambda: "filter: card:1" in text(app))
        assert "#14 " in text(app)
        assert "#13 " not in text(app)
        await press_and_settle(app, pilot, "escape", "slash", *"card:t4", "enter")
        await until(pilot, lambda: "Xid 79" in text(app))
        assert "trial 20 failed" not in text(app)
        await press_and_settle(app, pilot, "escape", "l", "l")
        assert "error and above" in text(app)
        assert {row.cells[2] for row in rows.rows} == {(("error", "bad"),)}
        await press_and_settle(app, pilot, "l")
        assert "Events · debug and above" in text(app)
        await until(pilot, lambda: "checkpoint at step" in text(app))  # read once asked for
        await press_and_settle(app, pilot, "l")
        assert "checkpoint at step" not in text(app)
        await press_and_settle(app, pilot, "slash", *"level:deb", "enter")
        assert "debug and above" in text(app)
        await press_and_settle(app, pilot, "escape", "G", "o")
        assert app.current_mode == "Events"
        assert "trial 20" in text(app)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("trial:14", EventFilter(trial=14)),
        ("trial:#14 nan", EventFilter(trial=14, words=("nan",))),
        ("trial:x", EventFilter(words=("trial:x",))),
        ("card:4090", EventFilter(cards=(HERE_4090,))),
        ("card:gpu-c77d", EventFilter(cards=(THERE_3090,))),
        ("card:h100", EventFilter(cards=("(no card)",))),
        ("level:w !step", EventFilter(level="warning", words=("!step",))),
        ("level:", EventFilter()),
    ],
)
def test_a_filter_is_read_as_typed(home: Home, typed: str, found: EventFilter) -> None:
    assert read_event_filter(typed, Service(home, lambda: NOW).snapshot()) == found


def test_words_are_found_and_excluded(home: Home) -> None:
    events = Service(home, lambda: NOW).events()
    failed = [event for event in events if EventFilter(words=("#20", "!nan")).matches(event)]
    assert failed
    assert all(event.trial == 20 and "NaN" not in event.text for event in failed)


def test_events_of_a_card_are_those_of_its_attempts_and_those_that_name_it(home: Home) -> None:
    store = Store(home.database, clock=lambda: NOW)
    store.note("heat", f"card {HERE_4090} cools", level="warning")
    found = store.events(cards=[HERE_4090], debug=False)
    assert {event.trial for event in found} == {8, 9, 13, None}
    assert [e.kind for e in store.events(cards=[HERE_4090], levels=["warning"])] == ["heat"]
    assert store.events(cards=["(no card)"]) == []
    store.close()


def test_levels_and_terms() -> None:
    assert levels_from("warning") == ("warning", "error")
    assert toggle_term("nan", "trial:3") == "nan trial:3"
    assert toggle_term("nan trial:3", "trial:4") == "nan trial:4"
    assert toggle_term("nan trial:3", "trial:3") == "nan"
