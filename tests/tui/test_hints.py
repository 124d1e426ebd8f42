"""Hints and the keys that apply them, on error panels and pages, and the checks of a machine."""

from __future__ import annotations

import pytest
from textual import events

from tests.tui.conftest import press_and_settle, shown, text, until
from tui.acts.doctor import DoctorPanel, check_lines
from tui.keys.hints import hinted_row, repeated_row
from tui.keys.keymap import Keymap
from tui.keys.table import ROWS
from tui.new_run.page import NewRun
from tui.paint import line_text
from tui.screens.panel import ErrorPanel, Panel
from workbench.home import Home


@pytest.mark.parametrize(
    ("hint", "row"),
    [
        ("lower train.learning_rate, or raise train.warmup", "trial.clone"),
        ("wait for its end, or `workbench clone 7 -s train.epochs=2`", "trial.clone"),
        ("`workbench undrain GPU-1` lets it take trials again", "go.cards"),
        ("see keeper.log, or run `workbench doctor`", "doctor"),
        ("try `workbench demo`, or `workbench run RECIPE`", "new"),
        ("name a trial yourself: workbench add 3 -s KEY=VALUE", "trial.add"),
        ("choose one of the board: workbench board", "go.board"),
        ("stop the engine, then `workbench repair`", "leave"),
        ("free space on that disk", None),
    ],
)
def test_a_hint_leads_to_the_key_that_applies_it(hint: str, row: str | None) -> None:
    found = hinted_row(hint)
    assert (found[0] if found else None) == row
    assert row is None or ROWS[row].keys


def test_what_was_typed_is_asked_for_again_at_the_key_of_the_view() -> None:
    found = [repeated_row(verb, Keymap(), "Board") for verb in ("evaluate", "submit", "extend")]
    assert [row[0] for row in found if row] == ["board.evaluate", "new", "trial.extend"]
    assert repeated_row("pause", Keymap(), "Board") is None


async def test_the_hint_of_a_failed_trial_names_its_key(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "!")
        await until(pilot, lambda: "c clones the trial with it" in text(app))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, NewRun))


async def test_the_checks_of_this_machine_end_with_their_panel(empty_home: Home) -> None:
    async with shown(empty_home, 80, 24) as (app, pilot):
        assert "I  checks this machine" in text(app)
        await pilot.press("I")
        await until(pilot, lambda: "checking; this takes some seconds" in text(app))
        panel = app.screen
        assert isinstance(panel, DoctorPanel)
        await pilot.press("escape")
        child = panel._child
        assert child is not None
        await until(pilot, lambda: child.poll() is not None)


@pytest.mark.slow  # the checks import torch
async def test_the_checks_of_this_machine_are_listed(empty_home: Home) -> None:
    async with shown(empty_home, 120, 40) as (app, pilot):
        await pilot.press("I")
        await until(pilot, lambda: "✓  python" in text(app))
        await until(pilot, lambda: "✓  packages" in text(app))
        await until(pilot, lambda: "bitsandbytes" in text(app) and "checking;" not in text(app))
        assert "a file or a pipe" not in text(app)


def test_a_check_has_a_glyph_and_its_hint_stands_below() -> None:
    printed = [
        "warn  gpu: no GPU \x1b[2J was found\n",
        "      → CPU cards are used\n",
        "",
        "fail  a: b",
    ]
    lines = [line_text(line) for text in printed for line in check_lines(text)]
    assert check_lines("ok    terminal: output goes to a pipe") == []
    assert lines == ["!  gpu  no GPU was found", "    → CPU cards are used", "✗  a  b"]


async def test_keys_typed_ahead_close_a_panel_once(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "enter")
        page = app.screen
        panel = ErrorPanel("it is refused", "type it again", [(("a",), "trial.add", "asks again")])
        for screen in (panel, Panel("Text", [(("words", ""),)])):
            app.push_screen(screen)
            await until(pilot, lambda screen=screen: app.screen is screen and screen.is_mounted)  # type: ignore[misc]
            for key in ("escape", "a", "q"):
                screen.post_message(events.Key(key, key if len(key) == 1 else None))
            screen.dismiss(None)
            screen.dismiss(None)
            await until(pilot, lambda: app.screen is page)
            await pilot.pause()
            assert app.screen is page
