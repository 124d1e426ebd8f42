"""The list of trials: filter, order, hidden rows and columns, settings that differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from textual import events

from tests.tui.conftest import press_and_settle, settled, shown, text, until
from tests.tui.filled import NOW
from tests.tui.test_app import trials
from tests.tui.test_steering import QUEUED, RESUMED, RUNNING
from tui.messages import DataNeeds
from tui.poller import read_picture
from tui.screen_memory import keep_choices, recall_choices
from tui.screens.columns import ColumnsPanel
from tui.tables.board import board_columns
from tui.tables.filters import trial_matches
from tui.tables.listing import (
    SORTS,
    differing_settings,
    fit_columns,
    shared_wait,
    sort_trials,
    title,
)
from tui.tables.trials import FULL
from tui.view_state import ListingChoice, ViewState
from tui.widgets.columns import arrange_columns
from tui.widgets.rowlist import RowList
from workbench import formatting
from workbench.cli import main
from workbench.home import Home
from workbench.service import Service, TrialRow
from workbench.store import trial_queue
from workbench.store.writer import Store
from workbench.trial import State

FAILED = 20


@pytest.fixture(scope="module")
def rows(template: Path) -> list[TrialRow]:
    service = Service(Home(template))
    found = service.snapshot().trials
    service.close()
    return found


def found(rows: list[TrialRow], words: str) -> set[int]:
    return {row.id for row in rows if trial_matches(row, words)}


# --- the costs ---


@pytest.fixture
def retried(home: Home) -> Home:
    """A home in which the first of two attempts of a trial has needed the most memory."""
    store = Store(home.database, clock=lambda: NOW)
    first = store.attempts(RESUMED)[0].id
    store.touch_attempt(first, peak_bytes=20 << 30)
    store.close()
    return home


def test_rate_and_peak_are_those_of_the_board(retried: Home) -> None:
    service = Service(retried, lambda: NOW)
    listed = {row.id: row for row in read_picture(service, DataNeeds()).snapshot.trials}
    ranked = [row for one in service.experiments() for row in service.board(one.id)[1]]
    service.close()
    assert len(ranked) > 10
    for row in ranked:
        mine = listed[row.trial]
        assert (mine.tokens_per_s, mine.peak_bytes) == (row.tokens_per_s, row.peak_bytes)
    assert listed[RESUMED].peak_bytes == 20 << 30


def test_the_filter_of_peaks_looks_at_all_attempts(retried: Home) -> None:
    service = Service(retried, lambda: NOW)
    rows = read_picture(service, DataNeeds()).snapshot.trials
    service.close()
    assert found(rows, "peak>19") == {RESUMED}


def test_the_page_of_a_trial_has_the_rate_of_its_row(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Service(home, lambda: NOW)
    picture = read_picture(service, DataNeeds(detail=RESUMED))
    service.close()
    listed = next(row for row in picture.snapshot.trials if row.id == RESUMED)
    assert picture.detail is not None
    assert picture.detail.trial.tokens_per_s == listed.tokens_per_s != 1_605.0
    monkeypatch.setenv("WORKBENCH_HOME", str(home.root))
    assert main(["show", str(RESUMED)]) == 0
    assert f"{formatting.rate(listed.tokens_per_s)} tokens/s" in capsys.readouterr().out


# --- the filter ---


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("state:failed", {20}),
        ("!demo !support", set[int]()),
        ("exp:demo lr>1e-3", {6, 7}),
        ("exp:demo learning_rate>=0.003", {6, 7}),
        ("rank<8", {2, 4, 6}),
        ("exp:supp rank=64", {12, 16, 20}),
        ("exp:supp score<1 !base", {10}),
        ("trial:13", {13}),
        ("state:done|pruned exp:support kind:tune", {9, 10, 17}),
        ("nan.*step", {20}),
        ("#1[34]", {13, 14}),
        ("rank=64 lr=0.0005", {20}),
    ],
)
def test_terms_of_the_filter_must_all_hold(rows: list[TrialRow], words: str, ids: set[int]) -> None:
    assert found(rows, words) == ids


@pytest.mark.parametrize("words", ["[", "(", "*", "lr>", "lr>x", "!", "state:", "nosuch>1", "\\"])
def test_a_term_that_is_being_typed_breaks_nothing(rows: list[TrialRow], words: str) -> None:
    found(rows, words)


# --- the order ---


@pytest.mark.parametrize("column", SORTS)
def test_every_column_sorts_and_keeps_all_trials(rows: list[TrialRow], column: str) -> None:
    for falling in (False, True):
        listed = sort_trials(rows, ListingChoice(sort=column, falling=falling))
        assert sorted(row.id for row in listed) == sorted(row.id for row in rows)


def test_equal_trials_keep_their_order_and_unknown_values_stand_last(rows: list[TrialRow]) -> None:
    listed = sort_trials(rows, ListingChoice(sort="experiment"))
    demo = [row.id for row in listed if row.experiment_name == "demo"]
    assert demo == [row.id for row in rows if row.experiment_name == "demo"]
    for falling in (False, True):
        scores = [row.score for row in sort_trials(rows, ListingChoice("score", falling))]
        known = [score for score in scores if score is not None]
        assert scores[: len(known)] == sorted(known, reverse=falling)


# --- the settings column ---


def test_settings_that_all_trials_share_are_left_out(rows: list[TrialRow]) -> None:
    mine = [
        replace(row, settings={"data.max_tokens": 512, "lora.rank": row.id})
        for row in rows
        if row.experiment == 2 and row.kind == "tune"
    ]
    assert differing_settings(mine)[13] == "rank=13"
    assert differing_settings(mine[:1]) == {mine[0].id: f"tokens=512 rank={mine[0].id}"}


def test_settings_outrank_other_columns_until_no_two_rows_look_the_same(
    rows: list[TrialRow],
) -> None:
    mine = [
        replace(
            row,
            settings={
                "train.learning_rate": 1e-5,
                "lora.rank": 2,
                "lora.dropout": 0.05,
                "train.seed": row.id,
            }
            | ({"lora.rslora": True} if row.id % 2 else {}),
        )
        for row in rows
        if row.experiment == 2 and row.kind == "tune"
    ]
    texts = differing_settings(mine)
    longest = max(map(len, texts.values()))
    columns = fit_columns(FULL, mine, longest, ListingChoice(), 80)
    widths = arrange_columns(columns, 78)
    width = widths[[column.title for column in columns].index("settings")]
    assert width is not None
    assert len({text[: width - 1] for text in texts.values()}) == len(mine)


def test_a_hidden_column_is_not_shown(rows: list[TrialRow]) -> None:
    columns = fit_columns(FULL, rows, 0, ListingChoice(hidden={"loss"}), 200)
    widths = arrange_columns(columns, 198)
    shown_titles = {c.title for c, w in zip(columns, widths, strict=True) if w is not None}
    assert "loss" not in shown_titles
    assert {"score", "tok/s", "peak", "card", "tries"} <= shown_titles


# --- a shared reason ---


def test_a_reason_that_all_share_is_told_once(rows: list[TrialRow]) -> None:
    queued = [row for row in rows if row.state is State.QUEUED]
    assert shared_wait(queued) == ""
    same = [replace(row, waiting="waits for a card") for row in queued]
    assert shared_wait(same) == "waits for a card"
    assert title("Trials", (3, 3), "", 0, "waits for a card").endswith("all wait for a card")


async def test_the_queue_names_a_shared_reason_in_its_title_alone(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    trial_queue.explain_all(store, "waits for a card with 99 GiB")
    store.close()
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "3")
        whole = text(app)
        assert "all wait for a card with 99 GiB" in whole
        assert whole.count("99 GiB") == 2  # the title, and the whole reason below the list


# --- the view ---


async def test_keys_and_clicks_sort_and_the_cursor_stays_on_its_trial(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_and_settle(app, pilot, "2", ".")
        assert "by trial ↑" in text(app)
        assert trials(app).rows[0].key == 1
        await press_and_settle(app, pilot, "R")
        assert trials(app).rows[0].key == 20
        await press_and_settle(app, pilot, "comma")
        assert trials(app).rows[0].key == RUNNING
        await press_and_settle(app, pilot, "g", "down", ".", ".", "R")
        assert trials(app).key == RESUMED
        head = text(app).splitlines()[2]
        await pilot.click("#trials", offset=(head.index("loss") - 1, 1))
        await settled(app, pilot)
        assert app.view_state.choice.sort == "loss"
        assert trials(app).key == RESUMED


async def test_columns_and_hidden_rows_are_chosen_and_remembered(running: Home) -> None:
    async with shown(running, 160, 50) as (app, pilot):
        await press_and_settle(app, pilot, "2", "z")
        assert "Trials · 7 of 20 · ended ones hidden" in text(app)
        assert "tries" in text(app)
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, ColumnsPanel))
        await pilot.press("G", "space", "escape")
        await settled(app, pilot)
        assert "tries" not in text(app)
    async with shown(running, 160, 50) as (app, pilot):
        await press_and_settle(app, pilot, "2")
        assert "tries" not in text(app)
        assert "Trials · 7 of 20 · ended ones hidden" in text(app)
        await press_and_settle(app, pilot, "z")
        assert "Trials · 20" in text(app)


@pytest.mark.parametrize(
    "kept", [b"", b"{", b"[]", b"\xff", json.dumps({"sort": 5, "hidden": [1, "x"]}).encode()]
)
def test_a_damaged_memory_counts_as_empty(empty_home: Home, kept: bytes) -> None:
    empty_home.make()
    path = empty_home.root / "screen.json"
    path.write_bytes(kept)
    view_state = ViewState(lambda: NOW)
    recall_choices(view_state, path)
    assert view_state.choice == ListingChoice()


def test_a_home_that_is_not_there_keeps_nothing(empty_home: Home) -> None:
    keep_choices(ViewState(lambda: NOW), empty_home.root / "screen.json")
    assert not empty_home.root.exists()


# --- Dashboard ---


async def test_live_trials_stay_in_sight_also_when_one_ends_under_the_cursor(
    running: Home,
) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        await press_and_settle(app, pilot, "G")
        assert trials(app).key == 1
        lines = text(app)
        assert all(f"#{id} " in lines for id in (13, 14, 15))
        assert "base" in lines
        await press_and_settle(app, pilot, "g")
        assert trials(app).key == RUNNING
        store = Store(running.database)
        store.end_attempt(store.attempts(RUNNING)[-1].id, "done", "")
        store.move(RUNNING, State.RUNNING, State.DONE, by="reconcile", why="trained to its end")
        store.close()
        await until(pilot, lambda: trials(app).rows[0].key == RESUMED)
        await settled(app, pilot)
        assert all(f"#{id} " in text(app) for id in (14, 15))


async def test_a_failure_counts_until_it_is_looked_at_and_is_remembered(running: Home) -> None:
    async with shown(running, 80, 24) as (app, pilot):
        assert "✗1" in text(app).splitlines()[0]
        await press_and_settle(app, pilot, "!")
        assert "lower train.learning_rate" in text(app)
        assert "✗" not in text(app).splitlines()[0]
        await press_and_settle(app, pilot, "escape")
    async with shown(running, 80, 24) as (app, _pilot):
        assert "✗" not in text(app).splitlines()[0]


async def test_the_next_failure_follows_the_one_that_is_shown(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    store.move(QUEUED, State.QUEUED, State.FAILED, by="place", why="x", reason="the newest")
    store.close()
    async with shown(running) as (app, pilot):
        assert "✗2" in text(app).splitlines()[0]
        await press_and_settle(app, pilot, "!")
        assert "the newest" in text(app)
        await press_and_settle(app, pilot, "!")
        assert "its loss became NaN" in text(app)
        assert len(app.screen_stack) == 2
        await press_and_settle(app, pilot, "!")
        assert "the newest" in text(app)


async def test_rows_of_a_dead_engine_lose_the_colour_of_life(home: Home) -> None:
    home.stopped.touch()
    async with shown(home) as (app, pilot):
        await press_and_settle(app, pilot, "2")
        row = trials(app).rows[0]
        tones = {tone for cell in row.cells if isinstance(cell, tuple) for _, tone in cell}
        assert "live" not in tones
        assert "unknown: last heard" in text(app)


async def test_the_last_ended_trials_are_drawn_where_none_is_live(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    for row in store.trials(2):
        if row.state.live:
            attempt = store.attempts(row.id)[-1].id
            store.end_attempt(attempt, "lost", "x")
            store.move(row.id, row.state, State.QUEUED, by="recover", why="x")
    store.close()
    async with shown(running) as (app, _pilot):
        assert "Loss · last trials" in text(app)
        assert "no loss logged yet" not in text(app)


async def test_the_mouse_wheel_does_not_snap_back(running: Home) -> None:
    async with shown(running, 80, 16) as (app, pilot):
        await press_and_settle(app, pilot, "2")
        rows = trials(app)
        rows.scroll_to(y=5, animate=False, force=True)
        await pilot.pause()
        store = Store(running.database)
        store.touch_attempt(store.attempts(RESUMED)[-1].id, last_step=325, loss=0.85)
        store.close()
        await until(pilot, lambda: app.view_state.trial(RESUMED).step == 325)  # type: ignore[union-attr]
        app._tick()
        await pilot.pause()
        assert rows.scroll_offset.y == 5
        await press_and_settle(app, pilot, "down")
        assert rows.scroll_offset.y <= 1


async def test_logs_have_one_order_in_every_view_without_what_only_helps_to_debug(
    running: Home,
) -> None:
    async with shown(running, 160, 90) as (app, pilot):
        assert "held-out loss at step 400" in text(app)
        assert "checkpoint at step" not in text(app)
        lines = text(app).splitlines()
        old, new = "base is resident", "checkpoint of step 400 verified"

        def place(words: str, lines: list[str]) -> int:
            return next(at for at, line in enumerate(lines) if words in line)

        assert place(old, lines) < place(new, lines)
        await press_and_settle(app, pilot, "enter")
        lines = text(app).splitlines()
        assert place(old, lines) < place(new, lines)
        await press_and_settle(app, pilot, "6", "slash", *"#13", "enter")
        lines = text(app).splitlines()
        assert place(old, lines) < place(new, lines)


def test_the_board_keeps_settings_that_differ_and_gives_up_costs(template: Path) -> None:
    service = Service(Home(template))
    judged = service.judged_board(2)
    service.close()
    rows = [
        replace(
            row,
            settings={
                "train.learning_rate": (1e-4, 2e-4, 5e-4)[row.trial % 3],
                "lora.rank": row.trial,
                "lora.alpha": 2.0 * row.trial,
                "lora.rslora": bool(row.trial % 2),
                "data.max_tokens": 512,
            },
        )
        for row in judged.rows
    ]
    columns = board_columns(replace(judged, rows=rows))
    widths = arrange_columns(columns, 78)
    titles = [column.title for column, width in zip(columns, widths, strict=True) if width]
    assert {"lr", "rank", "alpha", "rslora"} <= set(titles)
    assert not {"tok/s", "peak", "time", "tokens"} & set(titles)


async def test_keys_typed_behind_the_enter_of_a_filter_reach_the_list(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_and_settle(app, pilot, "2", "slash", *"dem")
        for key in ("enter", "j", "j"):
            app.post_message(events.Key(key, None if key == "enter" else key))
        rows = app.screen.query_one("#trials", RowList)
        await until(pilot, lambda: rows.key == rows.rows[2].key)
        assert "filter: dem─" in text(app)


async def test_a_narrow_list_has_whole_settings_and_no_cell_beyond_its_edge(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    settings = '{"train.learning_rate": 0.0006296, "lora.rank": 16}'
    store.db.execute("update trials set settings = ? where id = 13", (settings,))
    store.close()
    async with shown(running, 60, 16) as (app, pilot):
        await press_and_settle(app, pilot, "2")
        line = next(line for line in text(app).splitlines() if "#13" in line)
        assert "lr=0.0006296 rank=16  ● running    ~16 min" in line
        assert "…" not in line
