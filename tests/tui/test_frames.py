"""Screens as plain text, with the clock frozen; WORKBENCH_GOLDENS=write replaces the goldens."""

from __future__ import annotations

import pytest

from tests.tui.conftest import check_golden, settled, shown
from workbench.home import Home

SIZES = [(60, 16), (80, 24), (120, 40), (160, 50)]


@pytest.mark.parametrize(("width", "height"), [(60, 16), (160, 50)])
async def test_the_board_of_a_sweep_that_has_ended(running: Home, width: int, height: int) -> None:
    async with shown(running, width, height) as (app, pilot):
        await pilot.press("4", "left_square_bracket")
        await settled(app, pilot)
        check_golden(app, f"board-ended-{width}x{height}")
