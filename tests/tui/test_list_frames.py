"""Views and pages as plain text at four sizes: busy, empty, and where all failed; an app each.

A terminal is resized three times: a view that was composed at another size looks as a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import check_golden, press_and_settle, settled, shown, until
from tests.tui.filled import FAILED, NOW, QUEUED, RESUMED, engine_running
from tests.tui.test_frames import SIZES
from tui.app import WorkbenchApp
from tui.comparing.page import Compare
from tui.messages import TrialOpened
from workbench.home import Home
from workbench.store.writer import Store
from workbench.trial import State

VIEWS = ("dashboard", "trials", "queue", "board", "cards", "events")
"""The views in the order of their digits."""


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


async def check_sizes(home: Home, kind: str, pages: Mapping[str, int] | None = None) -> None:
    """Compare all views with their goldens, at one size after another; then so the pages.

    `pages` has trials by the kind of their goldens. Its own page marks a failure as looked at.
    """
    async with shown(home, *SIZES[0]) as (app, pilot):
        for width, height in SIZES:
            await pilot.resize_terminal(width, height)
            await check_views(app, pilot, f"{kind}-{width}x{height}")
        for width, height in SIZES if pages else ():
            await pilot.resize_terminal(width, height)
            for page, trial in (pages or {}).items():
                await check_trial(app, pilot, trial, f"{page}-{width}x{height}")
            await check_comparison(app, pilot, f"compare{kind}-{width}x{height}")


async def check_views(app: WorkbenchApp, pilot: Pilot[int], golden: str) -> None:
    """Go through the views by their digits; Events look the same where all trials failed."""
    views = VIEWS[:-1] if "failed" in golden else VIEWS
    for digit, name in enumerate(views, start=1):
        await press_and_settle(app, pilot, str(digit))
        check_golden(app, f"{name}{golden}")


async def check_trial(app: WorkbenchApp, pilot: Pilot[int], trial: int, golden: str) -> None:
    """Go to the page of a trial, and to its log."""
    app.screen.post_message(TrialOpened(trial))
    await until(pilot, lambda: getattr(app.screen, "trial", 0) == trial)
    await settled(app, pilot)
    check_golden(app, f"trial{golden}")
    await press_and_settle(app, pilot, "l")
    check_golden(app, f"log{golden}")


async def check_comparison(app: WorkbenchApp, pilot: Pilot[int], golden: str) -> None:
    """Compare the first two trials of a board with its page's golden: an ended sweep's, or the
    failed one's.
    """
    ended, back = ((), ()) if "failed" in golden else (("left_square_bracket",), ("tab",))
    await press_and_settle(app, pilot, "4", *ended, "home", "space", "equals_sign")
    await until(pilot, lambda: isinstance(app.screen, Compare))
    await settled(app, pilot)
    check_golden(app, golden)
    await press_and_settle(app, pilot, "escape", "home", "space", *back)  # without the mark


async def test_a_busy_home(running: Home) -> None:
    await check_sizes(running, "", {"": RESUMED, "-empty": QUEUED})


async def test_an_empty_home(empty_home: Home) -> None:
    await check_sizes(empty_home, "-empty")


async def test_a_home_where_all_failed(failed: Home) -> None:
    await check_sizes(failed, "-failed", {"-failed": FAILED})
