"""Views and pages as plain text at four sizes: busy, empty, and where all failed; an app each."""

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
at_every_size = pytest.mark.parametrize(("width", "height"), SIZES)


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


async def check_views(
    home: Home, kind: str, width: int, height: int, pages: Mapping[str, int] | None = None
) -> None:
    """Go through the views by their digits, and compare each with its golden.

    Then do so with the page and the log of trials; `pages` has them by the kind of their goldens.
    """
    async with shown(home, width, height) as (app, pilot):
        for digit, name in enumerate(VIEWS, start=1):
            await press_and_settle(app, pilot, str(digit))
            check_golden(app, f"{name}{kind}-{width}x{height}")
        for page, trial in (pages or {}).items():
            app.screen.post_message(TrialOpened(trial))
            await until(pilot, lambda id=trial: getattr(app.screen, "trial", 0) == id)  # type: ignore[misc]
            await settled(app, pilot)
            check_golden(app, f"trial{page}-{width}x{height}")
            await press_and_settle(app, pilot, "l")
            check_golden(app, f"log{page}-{width}x{height}")
        if pages:
            await check_comparison(app, pilot, f"compare{kind}-{width}x{height}")


async def check_comparison(app: WorkbenchApp, pilot: Pilot[int], golden: str) -> None:
    """Compare the first two trials of a board with its page's golden: an ended sweep's, or the
    failed one's.
    """
    ended = () if "failed" in golden else ("left_square_bracket",)
    await press_and_settle(app, pilot, "4", *ended, "home", "space", "equals_sign")
    await until(pilot, lambda: isinstance(app.screen, Compare))
    await settled(app, pilot)
    check_golden(app, golden)


@at_every_size
async def test_a_busy_home(running: Home, width: int, height: int) -> None:
    await check_views(running, "", width, height, {"": RESUMED, "-empty": QUEUED})


@at_every_size
async def test_an_empty_home(empty_home: Home, width: int, height: int) -> None:
    await check_views(empty_home, "-empty", width, height)


@at_every_size
async def test_a_home_where_all_failed(failed: Home, width: int, height: int) -> None:
    await check_views(failed, "-failed", width, height, {"-failed": FAILED})
