"""The app as the user drives it: navigation, filters, requests, updates, foreign text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from textual.command import CommandList
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import NoEngine, answer, frame, settled, shown, text, until
from tests.tui.filled import NOW, engine_running, engine_stopping
from tui.actions import EngineStarted, request_engine_start
from tui.app import WorkbenchApp
from tui.messages import Wish
from tui.screens.dashboard import Dashboard
from tui.screens.panel import Confirm, ErrorPanel, TypeId
from tui.screens.trial import Trial
from tui.widgets.rowlist import RowList
from workbench.errors import EngineError
from workbench.home import Home
from workbench.service import Service
from workbench.store.writer import Store
from workbench.trial import Kind, State

RUNNING, RESUMED, PAUSED, DONE = 13, 14, 11, 9


def trials(app: WorkbenchApp) -> RowList:
    return app.screen.query_one("#trials", RowList)


def requests(home: Home) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(home.requests.glob("*.json"))]


async def press(app: WorkbenchApp, pilot: Pilot[Any], *keys: str) -> None:
    await pilot.press(*keys)
    await settled(app, pilot)


# --- navigation ---


async def test_enter_drills_in_and_escape_or_a_digit_leave_the_trial(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press(app, pilot, "2", "down", "enter")
        assert isinstance(app.screen, Trial)
        assert app.screen.trial == RESUMED
        await press(app, pilot, "escape")
        assert app.current_mode == "Trials"
        assert trials(app).key == RESUMED
        await press(app, pilot, "enter", "4")
        assert app.current_mode == "Board"
        await press(app, pilot, "2")
        assert not isinstance(app.screen, Trial)


async def test_the_board_turns_to_the_other_experiment(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press(app, pilot, "4")
        assert "llama3-8b-support" in text(app)
        await press(app, pilot, "[")
        await until(pilot, lambda: "workbench:demo/model" in text(app))
        assert "0.844" in text(app)
        await press(app, pilot, "tab")
        await until(pilot, lambda: "Meta-Llama" in text(app))


async def test_ctrl_p_opens_the_palette_in_every_view(running: Home) -> None:
    async with shown(running) as (app, pilot):
        for view in "123456":
            await press(app, pilot, view)
            bound = app.screen.active_bindings["ctrl+p"]
            assert (bound.node, bound.binding.action) == (app, "app.command_palette")
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "CommandPalette" in type(app.screen).__name__)


async def test_a_page_key_before_the_palette_has_a_size_ends_nothing(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("colon")
        commands = app.screen.query_one(CommandList)
        await until(pilot, lambda: commands.option_count)
        commands.highlighted = 0
        commands.styles.display = "none"
        await until(pilot, lambda: not commands.size)
        commands._clear_caches()
        await pilot.press("pagedown")
        assert "CommandPalette" in type(app.screen).__name__


async def test_an_event_opens_with_its_whole_text(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await press(app, pilot, "6")
        await pilot.press("slash", *"fus", "enter", "enter")
        await until(pilot, lambda: "role 'custmer'" in text(app))


# --- filter, marks ---


async def test_a_filter_keeps_rows_with_all_its_words_and_says_so_where_none_is_left(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        await press(app, pilot, "2", "slash", *"dem 16")
        assert "Trials · 3 of 20 · filter: dem 16" in text(app)
        await press(app, pilot, "enter")
        assert not app.screen.query_one("#filter", Input).display
        assert trials(app).has_focus
        await press(app, pilot, "escape")
        assert "Trials · 20" in text(app)
        await press(app, pilot, "slash", *"zz")
        assert "no trial matches the filter" in text(app)


async def test_marked_trials_are_drawn_together_with_glyphs_of_their_own(running: Home) -> None:
    async with shown(running) as (app, pilot):
        assert "Loss · live trials" in text(app)
        await press(app, pilot, "space", "space")
        assert app.view_state.marked == {RUNNING, RESUMED}
        await until(pilot, lambda: "▲ #14" in text(app))
        assert "Loss · marked trials" in text(app)
        assert "● #13" in text(app)


# --- updates ---


async def test_the_cursor_stays_on_its_trial_when_others_move(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press(app, pilot, "2", "down")
        assert trials(app).key == RESUMED
        store = Store(running.database)
        first = store.attempts(RUNNING)[-1]
        store.end_attempt(first.id, "done", "")
        store.move(RUNNING, State.RUNNING, State.DONE, by="reconcile", why="trained to its end")
        store.close()
        await until(pilot, lambda: app.view_state.trial(RUNNING).state is State.DONE)  # type: ignore[union-attr]
        await settled(app, pilot)
        assert trials(app).key == RESUMED
        assert trials(app).rows[0].key == RESUMED


async def test_a_cursor_nobody_moved_stays_at_the_top(running: Home) -> None:
    async with shown(running) as (app, pilot):
        assert trials(app).key == RUNNING
        store = Store(running.database)
        store.end_attempt(store.attempts(RUNNING)[-1].id, "done", "")
        store.move(RUNNING, State.RUNNING, State.DONE, by="reconcile", why="trained to its end")
        store.close()
        await until(pilot, lambda: trials(app).key == RESUMED)


async def test_the_base_has_no_chart(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        trials(app).to_key(8)
        await press(app, pilot, "enter")
        await until(pilot, lambda: "the untouched base" in text(app))
        assert "step" not in text(app).split("Samples")[0]


async def test_only_the_row_that_changed_is_painted_and_nothing_while_nothing_changes(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        before = app.view_state.picture
        app._tick()
        for _ in range(20):
            await pilot.pause(0.01)
        assert app.view_state.picture is before
        await press(app, pilot, "2")
        rows = trials(app)
        painted: list[int] = []
        plain_paint = rows.render_line

        def counted(y: int) -> Any:
            painted.append(y)
            return plain_paint(y)

        rows.render_line = counted  # type: ignore[method-assign]
        store = Store(running.database)
        store.touch_attempt(store.attempts(RESUMED)[-1].id, last_step=325, loss=0.85)
        store.close()
        await until(pilot, lambda: "54%" in text(app))
        assert set(painted) == {2}


async def test_a_new_trial_appears_by_itself(running: Home) -> None:
    async with shown(running) as (app, pilot):
        store = Store(running.database)
        store.add_trial(2, 99, Kind.TUNE, {"lora.rank": 128})
        store.close()
        await until(pilot, lambda: "rank=128" in text(app))


async def test_the_first_trial_can_be_opened_from_the_welcome(empty_home: Home) -> None:
    async with shown(empty_home) as (app, pilot):
        assert "Nothing has run here yet." in text(app)
        empty_home.make()
        store = Store(empty_home.database, clock=lambda: NOW)
        experiment = store.add_experiment({"name": "first"}, "loss")
        store.add_trial(experiment, 1, Kind.TUNE, {"lora.rank": 8})
        store.close()
        await until(pilot, lambda: "lora" in text(app) or "rank=8" in text(app))
        await press(app, pilot, "enter")
        assert isinstance(app.screen, Trial)


async def test_a_click_chooses_a_row_and_another_opens_it(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press(app, pilot, "2")
        await pilot.click("#trials", offset=(8, 4))
        assert trials(app).key == 15
        await pilot.click("#trials", offset=(8, 4))
        await settled(app, pilot)
        assert isinstance(app.screen, Trial)


# --- actions ---


async def test_stopping_asks_and_every_key_but_y_keeps_the_trial(running: Home) -> None:
    async with shown(running) as (app, pilot):
        for key in ("n", "enter", "escape"):
            await pilot.press("s")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            await pilot.press(key)
            await until(pilot, lambda: not isinstance(app.screen, Confirm))
        assert requests(running) == []
        await pilot.press("s")
        await until(pilot, lambda: "keep it" in text(app))
        panel = text(app)
        assert "running, at step 420/600" in panel
        assert "Its last checkpoint is of step 400, 1 min ago." in panel
        assert "The adapter as it is then" in panel
        await pilot.press("y")
        await until(pilot, lambda: requests(running))
        [request] = requests(running)
        assert (request["verb"], request["args"]) == ("stop", {"trial": RUNNING})


async def test_killing_asks_for_the_typed_id(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, TypeId))
        await pilot.press("9", "enter")
        assert isinstance(app.screen, TypeId)
        assert requests(running) == []
        await pilot.press("1", "3", "enter")
        await until(pilot, lambda: requests(running))
        assert requests(running)[0]["verb"] == "kill"


async def test_pause_and_resume_act_at_once(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("p")
        await until(pilot, lambda: requests(running))
        [pause] = requests(running)
        assert (pause["verb"], pause["args"]["trial"]) == ("pause", RUNNING)
        answer(running, True, "trial 13 (running, step 320): gives its card back")
        await until(pilot, lambda: "gives its card back" in text(app))
        assert "U undoes it" in text(app)
        trials(app).to_key(PAUSED)
        await pilot.press("r")
        await until(pilot, lambda: requests(running))
        [resume] = requests(running)
        assert (resume["verb"], resume["args"]["trial"]) == ("resume", PAUSED)


async def test_the_palette_acts_on_the_chosen_trial(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("colon", *"Pau")
        await until(pilot, lambda: app.screen.query_one(CommandList).highlighted == 0)
        await pilot.press("enter")
        await until(pilot, lambda: requests(running))
        assert requests(running)[0]["verb"] == "pause"


async def test_a_request_that_cannot_be_written_opens_a_panel_with_the_hint(running: Home) -> None:
    async with shown(running) as (app, pilot):
        running.requests.rmdir()
        running.requests.touch()
        await pilot.press("p")
        await until(pilot, lambda: "hint" in text(app))
        assert isinstance(app.screen, ErrorPanel)
        assert "WORKBENCH_HOME" in text(app)


# --- the engine ---


async def test_an_engine_that_was_stopped_is_only_offered(home: Home) -> None:
    home.stopped.touch()
    async with shown(home) as (app, pilot):
        assert "stopped by you" in text(app)
        assert not (home.root / "started").exists()
        await pilot.press("E")
        await until(pilot, lambda: (home.root / "started").exists())


def test_a_start_while_ray_is_being_ended_waits_for_the_user(home: Home) -> None:
    service = NoEngine(home.make())
    with engine_stopping(home):
        said = request_engine_start(asked=True)(service)
        assert isinstance(said, EngineStarted)
        assert "start it once it has stopped" in said.text
        request_engine_start(asked=False)(service)
    assert not (home.root / "started").exists()


def test_a_start_while_trials_checkpoint_cancels_the_stop(running: Home) -> None:
    store = Store(running.database)
    store.set_fact("stopping", "1")
    store.close()
    said = request_engine_start(asked=True)(NoEngine(running))
    assert isinstance(said, EngineStarted)
    assert said.text == "the engine goes on"
    assert (running.root / "started").exists()


async def test_an_engine_that_died_is_started_and_the_banner_follows_it(home: Home) -> None:
    async with shown(home) as (app, pilot):
        await until(pilot, lambda: (home.root / "started").exists())
        assert "The engine is not running" in text(app)
        with engine_running(home):
            await until(pilot, lambda: "The engine is not running" not in text(app))
            assert "● engine running" in text(app)
        await until(pilot, lambda: "The engine is not running" in text(app))
        assert "may still be training" in " ".join(text(app).split())


async def test_the_banner_names_an_engine_that_does_not_tick(running: Home) -> None:
    os.utime(running.tick, (1_000_000_000, 1_000_000_000))
    async with shown(running) as (app, _pilot):
        assert "The engine has not answered" in text(app)
        assert "training may go on" in text(app)


async def test_a_broken_store_opens_a_panel_and_is_read_again(running: Home) -> None:
    whole = running.database.read_bytes()
    running.database.write_bytes(b"no database at all, but long enough to look like one" * 99)
    async with shown(running, readable=False) as (app, pilot):
        await until(pilot, lambda: "is damaged" in text(app))
        assert isinstance(app.screen, ErrorPanel)
        assert "workbench repair" in text(app)
        assert "q   leaves the screen, for a shell" in text(app)
        healed = running.root / "healed"
        healed.write_bytes(whole)
        healed.rename(running.database)
        await pilot.press("escape")
        await until(pilot, lambda: "Trials · 20" in text(app))
        healed.write_bytes(b"no database at all, but long enough to look like one" * 99)
        healed.rename(running.database)
        await until(pilot, lambda: "q   leaves the screen" in text(app))
        await pilot.press("q")
        await until(pilot, lambda: app.return_value == 0)


async def test_a_home_that_is_gone_is_named_and_no_key_makes_a_new_one(running: Home) -> None:
    gone = running.root.with_name("moved")
    async with shown(running) as (app, pilot):
        running.root.rename(gone)
        await until(pilot, lambda: "That did not work" in text(app))
        assert f"! the folder {running.root} is gone" in text(app)
        await pilot.press("escape", "E")
        await until(pilot, lambda: isinstance(app.screen, ErrorPanel))
        await pilot.press("escape", "n")
        await until(pilot, lambda: any("is gone" in one.message for one in app._notifications))
        app.send([Wish("pause", {"trial": RUNNING})])
        await until(pilot, lambda: isinstance(app.screen, ErrorPanel))
        assert "Nothing has run here yet" not in text(app)
        assert not running.root.exists()
        gone.rename(running.root)
        await pilot.press("escape")
        await until(pilot, lambda: "is gone" not in frame(app)[1])
        assert "Trials · 20" in text(app)


def test_an_unmounted_disk_leaves_an_empty_folder_that_is_no_new_home(running: Home) -> None:
    service = Service(running)
    service.snapshot()
    running.root.rename(running.root.with_name("moved"))
    running.root.mkdir()
    with pytest.raises(EngineError, match="is not mounted"):
        service.ensure_engine()
    assert list(running.root.iterdir()) == []
    service.close()


# --- other terminals ---


async def test_a_tiny_and_a_huge_terminal_do_not_break_it(running: Home) -> None:
    async with shown(running, 20, 8) as (app, pilot):
        for digit in "23456":
            await press(app, pilot, digit)
        await press(app, pilot, "1", "enter")
        assert len(frame(app)) == 8
        await pilot.resize_terminal(250, 70)
        await press(app, pilot, "escape")
        assert len(frame(app)) == 70


def test_importing_the_app_leaves_ray_and_torch_out() -> None:
    code = (
        "import sys, tui.app; "
        "print(sorted({'ray', 'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


async def test_a_screen_that_is_being_composed_is_left_alone(running: Home) -> None:
    """On a slow machine the clock ticks before the screen is composed."""
    async with shown(running) as (app, pilot):
        app.push_screen(Dashboard(app.view_state))
        app._tick()
        await settled(app, pilot)
        assert "Trials" in text(app)
