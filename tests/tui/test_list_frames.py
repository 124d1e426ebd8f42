"""Dashboard, Trials and Queue as plain text at four sizes: busy, empty, and where all failed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.tui.conftest import check_golden, press_and_settle, settled, shown
from tests.tui.filled import NOW, engine_running
from tests.tui.test_frames import SIZES
from workbench.home import Home
from workbench.store.writer import Store
from workbench.trial import State

VIEWS = [("1", "dashboard"), ("2", "trials"), ("3", "queue")]
at_every_size = pytest.mark.parametrize(("width", "height"), SIZES)
of_every_list = pytest.mark.parametrize(("digit", "name"), VIEWS)


@pytest.fixture
def failed(home: Home) -> Iterator[Home]:
    """A home in which every trial that had not ended has failed for one reason."""
    store = Store(home.database, clock=lambda: NOW)
    for row in store.trials(2):
        if row.state in (State.RUNNING, State.STARTING):
            store.end_attempt(store.attempts(row.id)[-1].id, "failed", "out of memory")
            store.move(row.id, row.state, State.FAILED, by="reconcile", why="x", **OUT_OF_MEMORY)
        elif row.state is State.QUEUED:
            store.move(row.id, row.state, State.FAILED, by="place", why="x", **OUT_OF_MEMORY)
    store.close()
    with engine_running(home):
        yield home


OUT_OF_MEMORY = {
    "reason": "CUDA ran out of memory at step 3, with every layer recomputing",
    "hint": "lower data.max_tokens to 512",
}


@at_every_size
@of_every_list
async def test_a_busy_home(running: Home, digit: str, name: str, width: int, height: int) -> None:
    async with shown(running, width, height) as (app, pilot):
        await press_and_settle(app, pilot, digit)
        check_golden(app, f"{name}-{width}x{height}")


@at_every_size
@of_every_list
async def test_an_empty_home(
    empty_home: Home, digit: str, name: str, width: int, height: int
) -> None:
    async with shown(empty_home, width, height) as (app, pilot):
        await pilot.press(digit)
        await settled(app, pilot)
        check_golden(app, f"{name}-empty-{width}x{height}")


@at_every_size
@of_every_list
async def test_a_home_where_all_failed(
    failed: Home, digit: str, name: str, width: int, height: int
) -> None:
    async with shown(failed, width, height) as (app, pilot):
        await press_and_settle(app, pilot, digit)
        check_golden(app, f"{name}-failed-{width}x{height}")
