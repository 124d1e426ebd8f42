"""A view whose data are still being read says so, and shows nothing untrue."""

from __future__ import annotations

import threading
from typing import Any

from tests.tui.conftest import NoEngine, settled, text, until
from tests.tui.filled import NOW
from tui.app import WorkbenchApp
from workbench.home import Home

GATE = threading.Event()
"""While it is not set, readings of a view's own data wait."""


class SlowService(NoEngine):
    """A Service over a disk that answers late."""

    def _late(self, name: str, *args: Any, **options: Any) -> Any:
        assert GATE.wait(20)
        return getattr(super(), name)(*args, **options)

    def events(self, *args: Any, **options: Any) -> Any:
        return self._late("events", *args, **options)

    def judged_board(self, *args: Any) -> Any:
        return self._late("judged_board", *args)

    def trial(self, *args: Any) -> Any:
        return self._late("trial", *args)


async def test_a_view_that_is_still_read_says_so(running: Home) -> None:
    GATE.set()
    app = WorkbenchApp(SlowService(running, lambda: NOW), now=lambda: NOW, period_s=0.02)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(app, pilot)
        for keys, there in (("6", "Events · info"), ("4", "is better)"), ("1!", "hint:")):
            GATE.clear()
            await pilot.press(*keys)
            await until(pilot, lambda: "reading …" in text(app))
            assert "nothing has happened" not in text(app)
            GATE.set()
            await until(pilot, lambda there=there: there in text(app))  # type: ignore[misc]
            assert "reading …" not in text(app)
    GATE.set()
