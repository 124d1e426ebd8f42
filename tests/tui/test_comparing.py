"""The Board's baseline, comparison, plots and files; the page of compared trials."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import frame, press_and_settle, settled, shown, text, until
from tests.tui.filled import NOW
from tui.app import WorkbenchApp
from tui.comparing.choosing import compared_trials, comparison_refusal
from tui.comparing.page import Compare
from tui.comparing.scatter import plot_lines, setting_plots
from tui.paint import line_text, line_width
from tui.screens.panel import InputPanel
from tui.tables.board import swept_keys
from tui.tables.comparison import setting_lines
from tui.widgets.curves import Curves
from tui.widgets.rowlist import RowList
from workbench.home import Home
from workbench.service import BoardRow, Service

DEMO, BASE = 1, 1
"""The experiment of yesterday in the filled home, and its base's trial."""


@pytest.fixture
def rows(home: Home) -> list[BoardRow]:
    """The board of an ended sweep over two settings."""
    service = Service(home, lambda: NOW)
    found = service.board(DEMO)[1]
    service.close()
    return found


# --- which trials ---


def test_the_baseline_comes_first_and_the_others_in_the_boards_order(rows: list[BoardRow]) -> None:
    a, b, c, d = [row.trial for row in rows][:4]
    assert compared_trials(rows, {d, b}, a, None) == (b, d)
    assert compared_trials(rows, {d, b}, a, c) == (c, b, d)
    assert compared_trials(rows, (), a, c) == (c, a)
    assert compared_trials(rows, {d}, b, None) == (b, d)
    assert compared_trials(rows, {99}, a, 98) == (a,)  # marks of another board do not count


@pytest.mark.parametrize(("count", "possible"), [(0, 0), (1, 0), (2, 1), (6, 1), (7, 0)])
def test_two_to_six_trials_are_compared(count: int, possible: int) -> None:
    assert (comparison_refusal(range(count)) == "") == bool(possible)


# --- plots ---


def test_each_setting_has_a_plot_with_its_ends_and_marks(rows: list[BoardRow]) -> None:
    best = rows[0].trial
    plots = setting_plots(rows, swept_keys(rows), {best: ("★", "accent")})
    assert [plot.key for plot in plots] == ["train.learning_rate", "lora.rank"]
    lines = plot_lines(plots, 80, 14)
    assert [line_width(line) for line in lines] == [80] * 14
    drawn = "\n".join(map(line_text, lines))
    assert drawn.count("★") == 2
    assert line_text(lines[0]).split() == ["lr", "rank"]
    assert line_text(lines[-1]).split() == ["0.0003", "log", "0.003", "4", "16"]
    dots = sum(0x2800 < ord(char) < 0x2900 for char in drawn)
    assert dots >= 2 * 5  # the other five trials stand in both plots


@pytest.mark.parametrize(("width", "height"), [(26, 5), (60, 8), (200, 40)])
def test_plots_fill_their_room_and_nothing_beyond(
    rows: list[BoardRow], width: int, height: int
) -> None:
    lines = plot_lines(setting_plots(rows, swept_keys(rows), {}), width, height)
    assert len(lines) <= height
    assert {line_width(line) for line in lines} == {width}


def test_settings_that_are_no_numbers_stand_side_by_side(rows: list[BoardRow]) -> None:
    tuned = [row for row in rows if row.kind != "base"]
    kinds = [
        replace(row, settings={"lora.kind": "lora" if n % 2 else "dora"})
        for n, row in enumerate(tuned)
    ]
    lines = plot_lines(setting_plots(kinds, ["lora.kind"], {}), 40, 9)
    assert line_text(lines[-1]).split() == ["dora", "·", "lora"]


def test_without_two_values_or_without_scores_there_is_no_plot(rows: list[BoardRow]) -> None:
    same = [replace(row, settings={"lora.rank": 8}) for row in rows]
    assert setting_plots(same, ["lora.rank"], {}) == []
    lost = [replace(row, score=math.nan) for row in rows]
    assert setting_plots(lost, swept_keys(rows), {}) == []
    assert plot_lines([], 80, 20) == []


# --- the screen ---


async def ended_board(app: WorkbenchApp, pilot: Pilot[int]) -> list[int]:
    """Go to the board of the ended sweep; return its trials, best first."""
    await press_and_settle(app, pilot, "4", "left_square_bracket", "home")
    picture = app.view_state.picture
    assert picture is not None
    assert picture.board is not None
    return [row.trial for row in picture.board.rows]


async def test_a_baseline_is_compared_with_on_the_board_and_on_a_page(running: Home) -> None:
    async with shown(running, 160, 50) as (app, pilot):
        best, second, third, *_ = await ended_board(app, pilot)
        assert "exact_match against each setting" in text(app)  # where the table leaves room
        await press_and_settle(app, pilot, "j", "b")
        assert f"vs #{second}" in text(app)
        assert f"⟂#{second}" in text(app)
        picture, service = app.view_state.picture, Service(running, lambda: NOW)
        assert picture is not None
        assert picture.baseline is not None
        for trial in (best, third, BASE):
            found = service.compare((second, trial)).scores[0].differences[1]
            mine = picture.baseline.differences[trial]
            assert found is not None
            assert mine is not None
            assert (mine.difference, mine.low, mine.p) == (found.difference, found.low, found.p)
        service.close()
        await press_and_settle(app, pilot, "home", "space")
        await pilot.press("equals_sign")
        await until(pilot, lambda: f"#{second}, #{best} compared" in text(app))
        await settled(app, pilot)
        await _check_page(app, pilot, second, best)
        await press_and_settle(app, pilot, "escape", "b")  # the pinned one is let go
        assert "vs best" in text(app)


async def _check_page(app: WorkbenchApp, pilot: Pilot[int], first: int, other: int) -> None:
    """Check curves, settings and answers, and press the page's keys."""
    page = app.screen
    assert isinstance(page, Compare)
    assert [curve.label for curve in page.query_one(Curves).curves] == [f"#{first}", f"#{other}"]
    assert f"differences from #{first}" in text(app)
    await press_and_settle(app, pilot, "m")
    assert "Curves · held-out loss" in text(app)
    await press_and_settle(app, pilot, "M", "e")
    assert "Curves · train loss · smoothed by" in text(app)
    await pilot.press("minus")
    await until(pilot, lambda: "all steps are shown; + zooms in" in text(app))
    await _check_axes(app, pilot, page)
    await pilot.press("b")
    await until(pilot, lambda: f"differences from #{other}" in text(app))
    app.view_state.curve_choice.smoothing = 0


async def _check_axes(app: WorkbenchApp, pilot: Pilot[int], page: Compare) -> None:
    """Press the keys of the logarithmic axis and of the zoom."""
    whole, newest = frame(app), page.newest_step()
    half = newest // 2
    await press_and_settle(app, pilot, "L")
    assert "· logarithmic ·" in text(app)
    assert frame(app)[5:12] != whole[5:12]
    await press_and_settle(app, pilot, "L", "plus")
    assert f"· steps {newest - half + 1} to {newest}" in text(app)
    assert all(
        point.step > newest - half - 1
        for curve in page.query_one(Curves).curves
        for point in curve.points
    )
    await press_and_settle(app, pilot, "left")
    assert f" to {newest - half // 2}" in text(app)
    await press_and_settle(app, pilot, "right", "minus")
    assert "· steps" not in text(app)
    await press_and_settle(app, pilot, "plus", "0")
    assert page.window is None


async def test_keys_of_the_board_that_are_impossible_say_why(running: Home) -> None:
    async with shown(running, 160, 50) as (app, pilot):
        await ended_board(app, pilot)
        await pilot.press("equals_sign")
        await until(pilot, lambda: "or mark 2 to 6 of this board" in text(app))
        await press_and_settle(app, pilot, "end")
        await pilot.press("M")
        await until(pilot, lambda: "the base has no adapter to merge" in text(app))
        await press_and_settle(app, pilot, "home", *["space"] * 7)
        await pilot.press("equals_sign")
        await until(pilot, lambda: "7 trials are marked; compare at most 6" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: text(app).count("compare at most 6") > 1)


async def write(app: WorkbenchApp, pilot: Pilot[Any], name: str, seen: str) -> None:
    """Press w, type a file's name, and wait for what the screen says then."""
    await pilot.press("w")
    await until(pilot, lambda: isinstance(app.screen, InputPanel) and app.screen.query(Input))
    app.screen.query_one(Input).value = name
    await pilot.press("enter")
    await until(pilot, lambda: seen in " ".join(text(app).replace("│", " ").split()))


async def test_the_board_is_plotted_and_written_to_files(running: Home, tmp_path: Path) -> None:
    async with shown(running, 120, 24) as (app, pilot):
        best, *_ = await ended_board(app, pilot)
        assert "against each setting" not in text(app)  # the table needs the room
        await press_and_settle(app, pilot, "o")
        assert "exact_match against each setting" in text(app)
        await press_and_settle(app, pilot, "o")
        assert app.screen.query_one("#board", RowList).display
        for name in ("b.csv", "b.md", "b.html"):
            await write(app, pilot, str(tmp_path / name), "written to")
        assert (tmp_path / "b.csv").read_text().startswith("rank,trial,")
        assert f"| {best} | done |" in (tmp_path / "b.md").read_text()
        assert "<svg" in (tmp_path / "b.html").read_text()
        await write(app, pilot, str(tmp_path / "b.csv"), "exists already")
        await pilot.press("escape")
        await write(app, pilot, str(tmp_path / "b.xls"), "end it in .html, .csv or .md")


def test_settings_of_compared_trials_stand_in_columns_or_in_lines(home: Home) -> None:
    service = Service(home, lambda: NOW)
    found = service.compare((2, 3, 4))
    service.close()
    wide = [line_text(line).split() for line in setting_lines(found, 60)]
    assert wide == [
        ["#2", "#3", "#4"],
        ["rank", "4", "16", "4"],
        ["lr", "0.0003", "0.0003", "0.001"],
    ]
    narrow = [line_text(line) for line in setting_lines(found, 30)]
    assert narrow[0] == "lora.rank  #2 4, #3 16, #4 4"
