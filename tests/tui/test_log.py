"""The log of a trial: it follows, wraps, finds text, and leaves levels out."""

from __future__ import annotations

import re

import pytest

from tests.tui.conftest import press_and_settle, shown, text, until
from tests.tui.filled import NOW, Filler
from tests.tui.test_steering import RESUMED
from tui.paint import line_text
from tui.screens.log import Log
from tui.tables.logs import mark_matches, search_pattern
from tui.widgets.logbox import LogBox
from workbench.home import Home

LONG = "a line of many words that is wider than the terminal and goes on with the number "


@pytest.fixture
def talkative(running: Home) -> Home:
    """A home in which one trial has logged sixty lines, and an error of three."""
    write(running, [(f"step {n}: " + LONG * (n % 7 == 0) + "fine") for n in range(60)])
    write(running, ["Traceback (most recent call last):\n  File x\nValueError: odd"], "error")
    return running


def write(home: Home, lines: list[str], level: str = "info") -> None:
    filler = Filler(home, NOW)
    filler.set(3)
    with filler.store.writing():
        for line in lines:
            filler.log(RESUMED, 1, line, level)
        filler.write_notes()
    filler.store.close()


async def test_a_log_follows_finds_wraps_and_leaves_levels_out(talkative: Home) -> None:
    async with shown(talkative, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "down", "enter", "l")
        assert isinstance(app.screen, Log)
        box = app.screen.query_one("#log", LogBox)
        await until(pilot, lambda: "ValueError: odd" in text(app))
        assert f"Log of #{RESUMED} · info and above · following" in text(app)
        assert "the number fine" in text(app)  # the end of a line that is wrapped
        write(talkative, ["the newest line"])
        await until(pilot, lambda: "the newest line" in text(app))

        await press_and_settle(app, pilot, "k", "k")
        await until(pilot, lambda: "2 lines below" in text(app))
        write(talkative, ["one more"])
        await until(pilot, lambda: "3 lines below" in text(app))
        assert "one more" not in text(app)
        await press_and_settle(app, pilot, "g")
        await until(pilot, lambda: "the base is resident" in text(app))
        for key, place in (("j", 1), ("pagedown", box.size.height), ("pageup", 1), ("k", 0)):
            await press_and_settle(app, pilot, key)
            await until(pilot, lambda place=place: abs(box.scroll_offset.y - place) <= 1)  # type: ignore[misc]
        await press_and_settle(app, pilot, "f")
        await until(pilot, lambda: "following" in text(app))
        assert "one more" in text(app)

        await press_and_settle(app, pilot, "g", "slash", *"p 2", "enter")
        await until(pilot, lambda: "p 2: 1 of 11 lines" in text(app))
        await press_and_settle(app, pilot, "n")
        await until(pilot, lambda: "p 2: 2 of 11 lines" in text(app))
        await until(pilot, lambda: "step 20: fine" in text(app))
        await press_and_settle(app, pilot, "N", "N")
        await until(pilot, lambda: "p 2: 11 of 11 lines" in text(app))
        await press_and_settle(app, pilot, "escape")
        assert "lines ·" not in text(app)

        await press_and_settle(app, pilot, "w", "G")
        assert not box.wraps
        await pilot.pause()
        assert "the number fine" not in text(app)
        await press_and_settle(app, pilot, *["right"] * 5)
        await until(pilot, lambda: "the number fine" in text(app))

        await press_and_settle(app, pilot, "w", "l", "l")
        await until(pilot, lambda: "error and above" in text(app))
        assert "step" not in text(app)
        await press_and_settle(app, pilot, "l")
        await until(pilot, lambda: "debug and above" in text(app))
        await press_and_settle(app, pilot, "escape")
        assert not isinstance(app.screen, Log)
        await press_and_settle(app, pilot, "l", "2")
        assert app.current_mode == "Trials"
        assert not isinstance(app.screen, Log)


async def test_a_log_shows_the_steps_of_its_trial(running: Home) -> None:
    filler = Filler(running, NOW)
    filler.set(3)
    steps = "step 9 of 90: loss 1.5"
    filler.store.note("progress", steps, level="debug", trial=RESUMED, attempt=1, at_utc=NOW)
    filler.store.close()
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "down", "enter", "l")
        await until(pilot, lambda: steps in text(app))
        await press_and_settle(app, pilot, "l")
        await until(pilot, lambda: "warning and above" in text(app))
        assert steps not in text(app)


async def test_keys_of_a_log_that_has_nothing_for_them_say_why(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "down", "enter", "l")
        await pilot.press("n")
        await until(pilot, lambda: "nothing is searched for; / does" in text(app))
        await pilot.press("left")
        await until(pilot, lambda: "lines are wrapped; w cuts them" in text(app))
        await press_and_settle(app, pilot, "l", "l")
        await until(pilot, lambda: "no line has the level error or above; l shows" in text(app))


def test_a_search_is_a_regular_expression_where_it_is_one() -> None:
    assert search_pattern("") is None
    lower, upper, broken = (search_pattern(text) for text in ("loss.*nan", "NaN", "step (4"))
    assert lower is not None
    assert upper is not None
    assert broken is not None
    assert lower.search("Loss is NaN")
    assert upper.search("NaN")
    assert not upper.search("nan")
    assert broken.search("at step (42")


def test_what_is_found_is_marked_across_parts() -> None:
    line = (("12:00", "faint"), (" loss ", ""), ("is NaN", "bad"))
    marked = mark_matches(line, re.compile("loss is"))
    assert line_text(marked) == line_text(line)
    assert [part for part in marked if part[1] == "accent"] == [
        (w, "accent") for w in ("loss ", "is")
    ]
    assert mark_matches(line, re.compile("x*")) == line
