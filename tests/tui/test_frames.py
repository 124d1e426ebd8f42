"""Screens as plain text, with the clock frozen; WORKBENCH_GOLDENS=write replaces the goldens."""

from __future__ import annotations

from tests.tui.conftest import check_golden, press_and_settle, settled, shown, until
from workbench.home import Home

SIZES = [(60, 16), (80, 24), (120, 40), (160, 50)]


async def test_the_board_of_a_sweep_that_has_ended(running: Home) -> None:
    async with shown(running, 60, 16) as (app, pilot):
        await press_and_settle(app, pilot, "4", "left_square_bracket")
        for width, height in ((60, 16), (160, 50)):
            await pilot.resize_terminal(width, height)
            await settled(app, pilot)
            check_golden(app, f"board-ended-{width}x{height}")


async def test_a_short_list_leaves_its_room_to_the_curves_and_the_log(running: Home) -> None:
    async with shown(running, 160, 50) as (app, pilot):
        trials, below = (app.screen.query_one(id) for id in ("#trials", "#below"))
        before = below.size.height
        await pilot.press("slash", *"exp:demo")
        await until(pilot, lambda: trials.size.height == 7 + 1)  # seven trials below the head
        assert below.size.height > before + 10
        assert (
            trials.outer_size.height + below.size.height
            == app.screen.query_one("#work").size.height
        )
        await pilot.press("escape")
        await until(pilot, lambda: below.size.height == before)
