"""Copying through the terminal."""

from __future__ import annotations

import base64

from tests.tui.conftest import shown, until
from tests.tui.test_steering import DONE, view
from tui.clipboard import copy_sequence
from workbench.home import Home


def test_text_is_sent_to_the_terminal_s_clipboard() -> None:
    assert copy_sequence("lora.rank=8", {}) == "\x1b]52;c;bG9yYS5yYW5rPTg=\x07"


def test_inside_tmux_it_is_also_sent_to_the_terminal_outside() -> None:
    plain, outer = "\x1b]52;c;YQ==\x07", "\x1bPtmux;\x1b\x1b]52;c;YQ==\x07\x1b\\"
    assert copy_sequence("a", {"TMUX": "/tmp/tmux-0/default,1,0"}) == plain + outer


def test_text_that_no_terminal_takes_is_not_sent() -> None:
    assert copy_sequence("x" * 80_000, {}) == ""


async def test_y_copies_the_settings_of_the_trial_under_the_cursor(running: Home) -> None:
    async with shown(running) as (app, pilot):
        written: list[str] = []
        app._driver.write = written.append  # type: ignore[method-assign,union-attr]
        await view(app, pilot, "2", "trials", DONE)
        await pilot.press("y")
        await until(pilot, lambda: any("]52;c;" in text for text in written))
        coded = next(text for text in written if "]52;c;" in text).partition("]52;c;")[2]
        row = app.view_state.trial(DONE)
        assert row is not None
        words = base64.b64decode(coded.partition("\x07")[0]).decode()
        assert words.split()[0].startswith("lora.rank=") or "=" in words
        assert set(row.settings) == {word.partition("=")[0] for word in words.split()}
