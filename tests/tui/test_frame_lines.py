from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tui.filled import NOW
from tui.actions import farewell
from tui.paint import Line, text_of, width
from tui.widgets.frame import banner_lines, key_line, top_line
from workbench.home import Home
from workbench.service import Engine, EngineState, Service, Snapshot
from workbench.store.writer import Store


@pytest.fixture
def snapshot(home: Home) -> Snapshot:
    return Service(home).snapshot()


def engine(
    snapshot: Snapshot, state: EngineState, detail: str = "", braked: bool = False
) -> Snapshot:
    now = Engine(state=state, pid=1, tick_age_s=12.0, detail=detail, braked=braked)
    return replace(snapshot, engine=now)


def told(lines: list[Line]) -> str:
    return " ".join(text_of(line) for line in lines)


def test_all_is_well_needs_no_banner(snapshot: Snapshot) -> None:
    assert banner_lines(engine(snapshot, "running"), 0, 0, "") == []


def test_why_nothing_new_is_started_is_told(snapshot: Snapshot) -> None:
    lines = banner_lines(engine(snapshot, "running", "five crashes [x]", braked=True), 0, 0, "")
    assert told(lines) == "! Nothing new is started: five crashes [x]"


def test_a_mistake_in_the_configuration_is_told_and_stops_nothing(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.set_fact("config-problem", "config.toml:2: guards.start_gap is not a setting")
    store.close()
    lines = banner_lines(Service(running).snapshot(), 0, 0, "")
    assert told(lines) == "! config.toml:2: guards.start_gap is not a setting"


def test_an_engine_that_is_late_ages_while_nobody_reads(snapshot: Snapshot) -> None:
    lines = banner_lines(engine(snapshot, "late"), 100, 130, "")
    assert "for 42 s now" in told(lines)


@pytest.mark.parametrize("state", ["starting", "stopped", "down"])
def test_every_other_state_says_what_it_means(snapshot: Snapshot, state: EngineState) -> None:
    assert len(told(banner_lines(engine(snapshot, state), 0, 0, ""))) > 20


@pytest.mark.parametrize("cells", [40, 80, 120, 200])
def test_the_lines_above_and_below_fit(snapshot: Snapshot, cells: int) -> None:
    keys = (("enter", "open"), ("space", "mark"), ("/", "filter"), ("?", "keys"), ("q", "leave"))
    assert width(key_line(keys, cells)) <= cells
    assert "leave" in text_of(key_line(keys, cells))
    if cells >= 80:
        above = top_line("Board", engine(snapshot, "stopped"), cells)
        assert width(above) <= cells
        assert "■ engine stopped" in text_of(above)


def test_leaving_tells_what_goes_on(snapshot: Snapshot) -> None:
    assert "3 trials at work, 3 waiting" in farewell(engine(snapshot, "running"))
    assert "nothing trains" in farewell(engine(snapshot, "stopped"))
    assert "workbench demo" in farewell(None)
