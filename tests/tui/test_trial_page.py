"""A trial's page: its sections as lines, and the keys of its charts."""

from __future__ import annotations

from dataclasses import replace

from tests.tui.conftest import press_and_settle, shown, text, until
from tests.tui.filled import NOW, QUEUED, RESUMED
from tui.paint import line_text
from tui.screens.trial import Trial
from tui.tables.detail import recipe_lines, sample_lines, settings_lines
from tui.widgets.chart_grid import ChartGrid
from workbench.home import Home
from workbench.service import AnswerSample, Service, TrialRow


def trials(home: Home) -> list[TrialRow]:
    return Service(home, lambda: NOW).snapshot().trials


def test_settings_stand_beside_the_recipe_s_and_the_other_trials_values(home: Home) -> None:
    known = trials(home)
    row = replace(known[0], settings={"train.learning_rate": 2e-4, "lora.rank": 8})
    others = [
        replace(row, id=90 + n, settings={"train.learning_rate": r})
        for n, r in enumerate((1e-3, 5e-5))
    ]
    recipe = {"train": {"learning_rate": 1e-4, "epochs": 1}, "lora": {"rank": 8}}
    lines = [line_text(line) for line in settings_lines(row, recipe, others)]
    lines += [line_text(line) for line in recipe_lines(row, recipe)]
    assert lines[0].split(maxsplit=1) == [
        "train.learning_rate",
        "0.0002  recipe 0.0001; others 5e-5, 0.001",
    ]
    assert lines[1].split() == ["lora.rank", "8"]
    assert lines[2].split() == ["train.epochs", "1"]


def test_answers_stand_beside_the_base_s_to_the_same_question() -> None:
    mine = AnswerSample(question="2+2", expected="4", answer="4", correct=True)
    base = AnswerSample(question="2+2", expected="4", answer="two", correct=False)
    lines = [line_text(line) for line in sample_lines([mine], [base])]
    assert lines == [
        "asked     2+2",
        "expected  4",
        "answered  4  ✓ right",
        "the base  two  ✗ wrong",
    ]
    assert len(sample_lines([mine], [])) == 3


async def test_keys_turn_enlarge_smooth_and_zoom_the_charts(running: Home) -> None:
    async with shown(running, 120, 40) as (app, pilot):
        await press_and_settle(app, pilot, "down", "enter")
        page, grid = app.screen, app.screen.query_one("#charts", ChartGrid)
        assert isinstance(page, Trial)
        await until(pilot, lambda: "▸train loss  0.8938" in text(app))
        for words in ("held-out loss", "learning rate", "gradient norm", "tokens/s", "peak memory"):
            assert words in text(app)
        assert len(grid.charts) == 6
        await press_and_settle(app, pilot, "m")
        assert "▸held-out loss  0.9706" in text(app)
        await press_and_settle(app, pilot, "M", "M")
        assert "▸peak memory  15.4 GiB" in text(app)
        await press_and_settle(app, pilot, "m", "enter")
        [large] = grid.charts
        assert [curve.label for curve in large.curves] == ["train loss", "held-out loss"]
        assert "▸● train loss" in text(app)
        await press_and_settle(app, pilot, "e", "L")
        assert "Curves · logarithmic · smoothed by 0.6" in text(app)
        assert [curve.quiet for curve in grid.charts[0].curves] == [True, False, True, False]
        await press_and_settle(app, pilot, "e", "e", "L", "enter")
        assert "─Curves──" in text(app)
        assert len(grid.charts) == 6
        await press_and_settle(app, pilot, "plus", "plus")
        assert "Curves · steps 241 to 320" in text(app)
        assert grid.charts[0].curves[0].points[0].step == 245
        await press_and_settle(app, pilot, "left")
        assert "Curves · steps 201 to 280" in text(app)
        await press_and_settle(app, pilot, "right", "minus")
        assert "Curves · steps 161 to 320" in text(app)
        await press_and_settle(app, pilot, "0")
        assert page.window is None
        await pilot.press("left")
        await until(pilot, lambda: "all steps are shown; + zooms in" in text(app))


async def test_charts_without_numbers_take_one_line_and_m_scrolls_to_a_chart(running: Home) -> None:
    async with shown(running, 60, 16) as (app, pilot):
        app.push_screen(Trial(app.view_state, QUEUED))
        await until(pilot, lambda: text(app).count("no values yet") == 1)
        app.pop_screen()
        app.push_screen(Trial(app.view_state, RESUMED))
        await until(pilot, lambda: "▸train loss" in text(app))
        await press_and_settle(app, pilot, "M")
        await until(pilot, lambda: "▸peak memory" in text(app))
