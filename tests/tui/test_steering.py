"""Actions from the screen: each key drops one request, and the engine's answer is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from textual import events
from textual.command import CommandInput, CommandList
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import (
    answer,
    answer_all,
    compare_golden,
    frame,
    press_and_settle,
    settled,
    shown,
    text,
    until,
)
from tests.tui.filled import HERE_3090, NOW
from tests.tui.test_new_run import opened
from tui.app import WorkbenchApp
from tui.new_run.page import NewRun
from tui.screens.panel import Confirm, ErrorPanel, InputPanel
from tui.tables import importance
from tui.widgets.rowlist import RowList
from workbench.home import Home
from workbench.importance import Importance
from workbench.service import ImportanceReport
from workbench.store import card_table
from workbench.store.requests import Request, scan_requests
from workbench.store.writer import Store
from workbench.trial import State

RUNNING, RESUMED, PAUSED, DONE, BASE, QUEUED, SECOND = 13, 14, 11, 9, 8, 16, 18


MISSPELT = "lora.rnak=32"


def sent(home: Home) -> list[tuple[str, dict[str, Any]]]:
    return [(r.verb, r.args) for _, r in scan_requests(home.requests) if isinstance(r, Request)]


async def submit(app: WorkbenchApp, pilot: Pilot[Any], key: str, typed: str) -> None:
    """Press the key, replace the input by `typed`, and submit it."""
    await pilot.press(key)
    await until(pilot, lambda: isinstance(app.screen, InputPanel | NewRun))
    await until(pilot, lambda: app.screen.query(Input))
    app.screen.query_one(Input).value = typed
    await pilot.pause()  # until the page knows what was typed
    await pilot.press("enter")


async def view(app: WorkbenchApp, pilot: Pilot[Any], digit: str, list: str, row: Any) -> None:
    await pilot.press(digit)
    await settled(app, pilot)
    app.screen.query_one(f"#{list}", RowList).to_key(row)
    await settled(app, pilot)


async def test_no_notification_hides_what_is_asked(running: Home) -> None:
    async with shown(running, 60, 16) as (app, pilot):
        await view(app, pilot, "2", "trials", RUNNING)
        await pilot.press("r")
        await until(pilot, lambda: "it is running" in text(app))
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "Stop trial" in text(app))
        await settled(app, pilot)
        assert "it is running" not in text(app)


async def test_c_clones_with_every_line_of_a_paste(whole: Home) -> None:
    async with shown(whole) as (app, pilot):
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, NewRun) and app.screen.query(Input))
        app.screen.query_one(Input).post_message(
            events.Paste("lora.rank=32\n  train.seed=7\r\n\nwarm=9\n")
        )
        await until(pilot, lambda: app.screen.query_one(Input).value)
        assert app.screen.query_one(Input).value == "lora.rank=32 train.seed=7 warm=9"
        await pilot.press("enter")
        await until(pilot, lambda: sent(whole))
        [(verb, args)] = sent(whole)
        assert verb == "clone"
        assert args["trial"] == RUNNING
        assert args["settings"]["lora.rank"] == 32
        assert args["settings"]["train.seed"] == 7
        assert args["warm_trial"] == DONE


async def test_garbage_is_named_on_the_page_sends_nothing_and_is_kept(whole: Home) -> None:
    async with shown(whole) as (app, pilot):
        page = await opened(app, pilot, "c")
        for words in ("warm=x", "lora.rank='8", "lora.rank=", "=", "warm=", "[red]", MISSPELT):
            before, page.query_one(Input).value = page.answer, words
            await until(pilot, lambda before=before: page.answer is not before, words)  # type: ignore[misc]
            await until(pilot, lambda: "✗" in text(app), words)
            await pilot.press("enter")
            await pilot.pause()
            assert app.screen is page, words
            assert sent(whole) == [], words
        await until(pilot, lambda: "Did you mean lora.rank?" in text(app))
        await pilot.press("escape", "c")
        await until(pilot, lambda: isinstance(app.screen, NewRun) and app.screen.query(Input))
        assert app.screen.query_one(Input).value == MISSPELT
        assert sent(whole) == []


async def test_x_extends_an_ended_trial_only_and_c_clones_no_base(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("x")
        await until(pilot, lambda: "it is running; only an ended" in text(app))
        await view(app, pilot, "2", "trials", DONE)
        await pilot.press("x")
        await until(pilot, lambda: isinstance(app.screen, InputPanel))
        assert app.screen.query_one(Input).value == "+1"
        await pilot.press("enter")
        await until(pilot, lambda: sent(running))
        await submit(app, pilot, "x", "100 steps")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert sent(running) == [
            ("extend", {"trial": DONE, "epochs": 1.0}),
            ("extend", {"trial": DONE, "steps": 100}),
        ]
        await view(app, pilot, "2", "trials", BASE)
        await pilot.press("c")
        await until(pilot, lambda: "untouched base" in text(app))


async def test_v_moves_to_the_card_of_that_number_or_name_unless_escape_cancels(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        for key in "av":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, InputPanel))
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(app.screen, InputPanel))
        assert sent(running) == []
        await submit(app, pilot, "v", "1")
        await until(pilot, lambda: sent(running))
        await submit(app, pilot, "v", "GPU-c77")
        await until(pilot, lambda: len(sent(running)) == 2)
        first, second = sent(running)
        assert first[1] == {"trial": RUNNING, "card": HERE_3090}  # 1 in nvidia-smi
        assert second == ("move", {"trial": RUNNING, "card": "GPU-c77"})


async def test_a_adds_a_number_of_trials_or_one_with_settings(whole: Home) -> None:
    async with shown(whole) as (app, pilot):
        await submit(app, pilot, "a", "4")
        await until(pilot, lambda: sent(whole))
        await submit(app, pilot, "a", "train.learning_rate=1e-4")
        await until(pilot, lambda: len(sent(whole)) == 2)
        (_, many), (_, one) = sent(whole)
        assert many["trials"] == 4
        assert one["settings"] == {"train.learning_rate": 1e-4}


async def test_the_keys_that_hold_also_release(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.steer_experiment(2, held=1)
    store.set_fact("held", "1")
    store.close()
    async with shown(running, 80, 24) as (app, pilot):
        await view(app, pilot, "3", "queue", QUEUED)
        assert "its experiment is held" in text(app)
        await pilot.press("h", "H")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert sent(running) == [("release", {"experiment": 2}), ("release", {})]


async def test_an_answer_is_shown_with_the_key_that_undoes_it(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        await view(app, pilot, "3", "queue", QUEUED)
        await pilot.press("h")
        await until(pilot, lambda: sent(running))
        [path] = running.requests.glob("*.json")
        assert json.loads(path.read_bytes())["verb"] == "hold"
        answer(running, True, "experiment x is held: none of its trials is placed")
        await until(pilot, lambda: "is held: none of its" in text(app))
        assert "U undoes it" in text(app)


async def test_a_refused_request_opens_a_panel_with_the_hint(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await submit(app, pilot, "v", "1")
        await until(pilot, lambda: sent(running))
        answer(running, False, "trial 13 cannot go there [red]", "undrain it")
        await until(pilot, lambda: isinstance(app.screen, ErrorPanel))
        await until(pilot, lambda: "cannot go there [red]" in text(app))
        assert "undrain it" in text(app)
        assert "v   asks again, with what you typed" in text(app)
        await pilot.press("v")
        await until(pilot, lambda: app.screen.query("#typed"))
        assert app.screen.query_one(Input).value == "1"
        await pilot.press("enter")
        await until(pilot, lambda: sent(running))
        answer(running, False, "it has no room", "`workbench undrain GPU-1` lets it take trials")
        await until(pilot, lambda: "goes to Cards" in text(app))
        await pilot.press("5")
        await until(pilot, lambda: app.current_mode == "Cards")


async def test_without_an_engine_the_screen_says_that_the_request_waits(home: Home) -> None:
    async with shown(home) as (app, pilot):
        await view(app, pilot, "3", "queue", QUEUED)
        await pilot.press("f")
        await until(pilot, lambda: "once the engine is running" in text(app))


async def choose_in_palette(app: WorkbenchApp, pilot: Pilot[Any], words: str) -> None:
    await pilot.press("colon")
    await until(pilot, lambda: app.screen.query(CommandInput))
    app.screen.query_one(CommandInput).value = words
    await until(pilot, lambda: app.screen.query_one(CommandList).highlighted == 0)
    await pilot.press("enter")


async def test_the_palette_limits_parallel_trials_and_holds_without_queued_ones(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        await choose_in_palette(app, pilot, "Limit its")
        await until(pilot, lambda: isinstance(app.screen, InputPanel))
        app.screen.query_one(Input).value = "2"
        await pilot.press("enter")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("max-parallel", {"experiment": 2, "limit": 2})]
        await answer_all(app, pilot, running)
        await view(app, pilot, "2", "trials", DONE)
        await choose_in_palette(app, pilot, "or release its")
        await until(pilot, lambda: sent(running))
        [(verb, args)] = sent(running)
        assert (verb, list(args)) == ("hold", ["experiment"])


async def test_the_end_of_an_experiment_rings_the_bell_once_unless_it_had_ended_before(
    running: Home,
) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.mark_ended(1)
    async with shown(running) as (app, pilot):
        written = wire(app)
        store.move(QUEUED, State.QUEUED, State.PAUSED, by="reconcile", why="x")
        await until(pilot, lambda: app.view_state.trial(QUEUED).state is State.PAUSED)  # type: ignore[union-attr]
        assert not written
        with store.writing():
            store.db.execute("update experiments set name = ? where id = 2", ("evil\x1b[2J\x07x",))
        store.mark_ended(2)
        await until(pilot, lambda: "has ended" in text(app))
        [notice] = [data for data in written if "\x1b]9;" in data]
        assert notice.startswith("\x1b]9;evilx has ended: ")
        assert notice.endswith("\x1b\\\x07")
        assert not set(notice[4:-3]) & {"\x1b", "\x07"}
    store.close()


def wire(app: WorkbenchApp) -> list[str]:
    """Return a list that collects what the app itself writes to its terminal from now on."""
    written: list[str] = []
    assert app._driver is not None
    write: Callable[[str], None] = app._driver.write

    def both(data: str) -> None:
        written.append(data)
        write(data)

    app._driver.write = both  # type: ignore[method-assign]
    return written


async def test_panels_look_as_their_goldens(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        for key, name in (("v", "move"), ("question_mark", "help")):
            await pilot.press(key)
            await until(pilot, lambda: not hasattr(app.screen, "HERE"))
            await pilot.pause()
            region = app.screen.query_one(".panel").region
            lines = frame(app)[region.y : region.bottom]
            compare_golden(f"{name}-80x24", [line[region.x : region.right] for line in lines])
            await press_and_settle(app, pilot, "escape")


async def test_ending_a_quarantine_shows_its_reason_first(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    uuid = store.cards()[0].uuid
    card_table.set_quarantine(store, uuid, "Xid 79, fell off the bus; reseat it")
    store.close()
    async with shown(running, 80, 24) as (app, pilot):
        await view(app, pilot, "5", "cards", uuid)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "fell off the bus" in text(app))
        await pilot.press("y")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("undrain", {"card": uuid, "quarantine": True})]


async def test_the_board_opens_the_importance_of_settings(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await pilot.press("4")
        await settled(app, pilot)
        await pilot.press("i")
        await until(pilot, lambda: "Importance of settings" in text(app))
        await until(pilot, lambda: "Too few trials" in text(app))


def test_each_setting_is_a_line_with_its_importance() -> None:
    sure = Importance(
        key="train.learning_rate", share=0.71, low=0.5, high=0.88, chance=0.002, best="0.004"
    )
    chance = Importance(key="lora.rank", share=0.02, low=0.0, high=0.2, chance=0.4, best="8")
    report = ImportanceReport(experiment="demo", trials=36, least=8, settings=[sure, chance])
    lines = ["".join(part for part, _ in line) for line in importance.importance_lines(report)]
    assert lines[2].split() == ["lr", "71%", "50%", "to", "88%", "best", "0.004"]
    assert lines[3].endswith("not statistically significant (p 0.40)")


async def test_a_trial_that_was_acted_on_stays_under_the_cursor(running: Home) -> None:
    """Else the screen would say `h undoes it`, and h would act on another trial."""
    async with shown(running) as (app, pilot):
        await pilot.press("3")
        await settled(app, pilot)
        rows = app.screen.query_one("#queue", RowList)
        first = rows.key
        assert isinstance(first, int)
        await pilot.press("p")
        await until(pilot, lambda: sent(running))
        store = Store(running.database, clock=lambda: NOW)
        store.to_front(next(row.key for row in rows.rows if row.key != first))  # type: ignore[arg-type]
        store.close()
        await until(pilot, lambda: rows.rows[0].key != first)
        assert rows.key == first
