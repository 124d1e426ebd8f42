"""The table of keys: each row does what it says, and every list of keys comes from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import answer, answer_all, press_and_settle, shown, text, until
from tests.tui.test_app import trials
from tests.tui.test_steering import DONE, PAUSED, RESUMED, RUNNING, SECOND, sent, view
from tui.app import WorkbenchApp
from tui.keys import page
from tui.keys.keymap import Keymap, KeyMistake, key_text, read_keymap
from tui.keys.table import APP, LIST, PAGES, PLACES, ROWS, TABLE, VIEW, VIEWS, KeyRow, rows_at
from tui.screens.panel import Confirm
from tui.widgets.rowlist import RowList
from workbench.home import Home

App = WorkbenchApp
Seen = Callable[[App, Home], object]


@dataclass(frozen=True)
class Case:
    """A row's test: the view, list and row to go to, keys to press before, and what must be so."""

    seen: Seen
    place: tuple[str, str, Any] | None = None
    """The view's digit, the id of its list, and the row under the cursor."""
    before: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    """Keys to press once the page of the row is there."""
    after: tuple[str, ...] = ()
    """Keys that put back what the row changed for those tested after it."""


def asks(verb: str, **args: Any) -> Seen:
    """Return a test that exactly this request was sent."""
    return lambda _app, home: sent(home) == [(verb, args)]


def at(row: int) -> Seen:
    return lambda app, _home: trials(app).key == row


def says(words: str) -> Seen:
    return lambda app, _home: words in " ".join(text(app).split())


def on_screen(kind: str) -> Seen:
    return lambda app, _home: kind in type(app.screen).__name__


def typed(start: str) -> Seen:
    """Return a test that a panel asks for input and its title begins so."""
    return lambda app, _home: bool(app.screen.query("#typed")) and start in text(app)


def scrolled(app: App, _home: Home) -> float:
    return app.screen.query_one("#scroll", VerticalScroll).scroll_y


LISTED = ("2", "trials", RUNNING)
QUEUE = ("3", "queue", SECOND)
GPU = "GPU-6f1a2b3c-0d4e-4f5a-8b6c-7d8e9fa0b1c2"
CARD = ("5", "cards", GPU)
PAGE = ("1", "trials", RUNNING)
BOARD = ("4", "board", DONE)
COMPARED: dict[str, Any] = {"place": BOARD, "before": ("space", "equals_sign")}

CASES: dict[str, Case] = {
    "queue.front": Case(asks("order", trial=SECOND, to="front"), QUEUE),
    "queue.up": Case(asks("order", trial=SECOND, to="up"), QUEUE),
    "queue.down": Case(asks("order", trial=SECOND, to="down"), QUEUE),
    "queue.back": Case(asks("order", trial=SECOND, to="back"), QUEUE),
    "queue.raise": Case(asks("priority", experiment=2, priority=1), QUEUE),
    "queue.lower": Case(asks("priority", experiment=2, priority=-1), QUEUE),
    "queue.hold": Case(asks("hold", experiment=2), QUEUE),
    "queue.hold-all": Case(asks("hold"), QUEUE),
    "trials.sort-next": Case(says("by trial ↑"), LISTED, after=("comma",)),
    "trials.sort-previous": Case(says("by left or why ↑"), LISTED, after=(".",)),
    "trials.reverse": Case(says("by trial ↓"), LISTED, (".",), after=("R", "comma")),
    "trials.hide": Case(says("ended ones hidden"), LISTED, after=("z",)),
    "trials.columns": Case(on_screen("ColumnsPanel"), LISTED),
    "trial.down": Case(lambda app, home: scrolled(app, home) > 0, PAGE, ("enter",)),
    "trial.up": Case(lambda app, home: scrolled(app, home) == 1, PAGE, ("enter", "j", "j")),
    "trial.top": Case(lambda app, home: scrolled(app, home) == 0, PAGE, ("enter", "j", "j")),
    "trial.end": Case(lambda app, home: scrolled(app, home) > 5, PAGE, ("enter",)),
    "compare.down": Case(lambda app, home: scrolled(app, home) > 0, **COMPARED),
    "compare.up": Case(lambda app, home: scrolled(app, home) == 1, **COMPARED, then=("j", "j")),
    "compare.top": Case(lambda app, home: scrolled(app, home) == 0, **COMPARED, then=("j", "j")),
    "compare.end": Case(lambda app, home: scrolled(app, home) > 3, **COMPARED),
    "board.chat": Case(on_screen("Chat"), BOARD),
    "board.evaluate": Case(typed("Score trial 9 on other rows"), BOARD),
    "list.open": Case(on_screen("Trial"), LISTED),
    "list.mark": Case(lambda app, _home: app.view_state.marked == {RUNNING}, LISTED),
    "list.down": Case(at(RESUMED), LISTED),
    "list.up": Case(at(RUNNING), ("2", "trials", RESUMED)),
    "list.page-down": Case(lambda app, _home: trials(app).key not in (13, 14), LISTED),
    "list.page-up": Case(at(RUNNING), ("2", "trials", RESUMED)),
    "list.top": Case(at(RUNNING), ("2", "trials", DONE)),
    "list.end": Case(at(1), LISTED),
    "filter": Case(
        lambda app, _home: app.screen.query_one("#filter", Input).has_focus,
        LISTED,
        after=("escape",),
    ),
    "trial.stop": Case(says("Stop trial 13?"), LISTED),
    "trial.kill": Case(says("Kill trial 13?"), LISTED),
    "trial.pause": Case(asks("pause", trial=RUNNING), LISTED),
    "trial.resume": Case(asks("resume", trial=PAUSED), ("2", "trials", PAUSED)),
    "undo": Case(says("nothing was done that can be undone"), LISTED),
    "trial.extend": Case(typed("Train trial 9 longer"), ("2", "trials", DONE)),
    "trial.add": Case(typed("Add to"), LISTED),
    "trial.move": Case(typed("Move trial 13"), LISTED),
    "trial.evaluate": Case(typed("Score trial 9 on other rows"), ("2", "trials", DONE)),
    "trial.finals": Case(typed("Finals of llama3-8b-support"), LISTED),
    "experiment.limit": Case(typed("Parallel trials of llama3-8b-support"), LISTED),
    "experiment.hold": Case(asks("hold", experiment=2), LISTED),
    "experiment.raise": Case(asks("priority", experiment=2, priority=1), LISTED),
    "experiment.lower": Case(asks("priority", experiment=2, priority=-1), LISTED),
    "hold-all": Case(asks("hold"), LISTED),
    "theme": Case(says("theme: ")),
    "new": Case(on_screen("NewRun")),
    "doctor": Case(on_screen("DoctorPanel")),
    "experiment.all": Case(says("All trials of llama3-8b-support"), LISTED),
    "failure": Case(says("lower train.learning_rate"), LISTED),
    "events.level": Case(says("Events · warning and above"), before=("6",)),
    "copy": Case(says("copied:"), ("2", "trials", DONE)),
    "step-out": Case(lambda app, _home: app.current_mode == "Dashboard", LISTED),
    "palette": Case(on_screen("CommandPalette")),
    "engine": Case(says("the engine is running already")),
    "keys": Case(says("Keys of Dashboard"), before=("1",)),
    "leave": Case(lambda app, _home: app.return_value == 0),
    **{
        f"go.{name.lower()}": Case(
            lambda app, _home, n=name: app.current_mode == n,  # type: ignore[misc]
            before=("2",) if name == "Dashboard" else (),
        )
        for name in VIEWS
    },
    "cards.history": Case(says("the last hour"), CARD),
    "cards.drain": Case(asks("drain", card=GPU, now=False), CARD),
    "cards.drain-now": Case(asks("drain", card=GPU, now=True), CARD),
}
"""A test for each row. Those of Board, Events and the new run stand in their views' own tests."""
ELSEWHERE = (
    *("board.", "events.", "trial.clone", "compare."),
    *("curves.", "trial.metric", "trial.log", "log."),
)
"""Rows of views that test their keys themselves."""
TESTED = [row for row in TABLE if row.id in CASES and row.id != "board.chat"]
FIRST, LAST = ("undo",), ("leave",)
"""Rows that are tested before others have acted, and after them."""


@pytest.mark.parametrize("place", dict.fromkeys(row.place for row in TESTED))
async def test_each_row_does_what_it_says(running: Home, place: str) -> None:
    """One screen for the rows of a place; between two of them it leaves panels and pages."""
    rows = [row for row in TESTED if row.place == place]
    async with shown(running, 100, 24) as (app, pilot):
        for row in sorted(rows, key=lambda row: (row.id in LAST, row.id not in FIRST)):
            case = CASES[row.id]
            await go(app, pilot, row, case)
            if row.keys:
                await pilot.press(_name(row.keys[0]))
            else:  # of the palette alone
                await app.run_action(
                    row.action if row.place == APP else f"press('{row.id}')", app.screen
                )
            await until(pilot, lambda case=case: case.seen(app, running), row.id)  # type: ignore[misc]
            if row.id not in LAST:
                await press_and_settle(app, pilot, *case.after)
                await go_back(app, pilot, running, f"answer to {row.id}")


async def test_a_chat_without_an_answer_does_not_keep_the_screen_open(running: Home) -> None:
    async with shown(running, 100, 24) as (app, pilot):
        await view(app, pilot, *BOARD)
        await pilot.press("t")
        await until(pilot, lambda: CASES["board.chat"].seen(app, running))
        await until(pilot, lambda: sent(running))
        began = time.monotonic()
    assert time.monotonic() - began < 20  # and not the minute that an answer may take


async def go(app: App, pilot: Pilot[int], row: KeyRow, case: Case) -> None:
    """Go to where the row is tested."""
    if case.place is not None:
        await view(app, pilot, *case.place)
    await press_and_settle(app, pilot, *case.before)
    if row.place in PAGES:
        await until(pilot, lambda: getattr(app.screen, "VISIT", False))
    await press_and_settle(app, pilot, *case.then)


async def go_back(app: App, pilot: Pilot[int], home: Home, words: str) -> None:
    """Answer with these words what was asked, and step out to a view without marks."""
    if sent(home):
        await answer_all(app, pilot, home, words)
    while len(app.screen_stack) > 1 or app.view_state.marked:
        await pilot.press("escape")
    app.clear_notifications()


def _name(key: str) -> str:
    """Return a key as Pilot presses it."""
    return {"+": "plus", "-": "minus", "/": "slash", "?": "question_mark"}.get(key, key)


def test_every_row_has_a_test() -> None:
    elsewhere = {row.id for row in TABLE if row.id.startswith(ELSEWHERE)}
    # `redraw` is pressed on a real terminal, in test_wire.py.
    assert {row.id for row in TABLE} - elsewhere - CASES.keys() == {"redraw"}
    assert CASES.keys() <= ROWS.keys()


def test_a_key_means_one_thing_in_one_place() -> None:
    for place in PLACES:
        keys = [key for row in rows_at(place) for key in row.keys]
        assert sorted(keys) == sorted(set(keys)), place


@pytest.mark.parametrize("place", [*VIEWS, *PAGES])
def test_help_and_footer_name_only_keys_that_reach_their_row(place: str) -> None:
    keymap = Keymap()
    rows = list(keymap.rows_for(place))
    owner: dict[str, str] = {}
    for row in rows:
        for key in row.keys:
            owner.setdefault(key, row.id)
    assert all(row.id in {owner[key] for key in row.keys} for row in rows if row.keys)
    for _keys, word, ids in keymap.footer(place):
        assert word
        assert all(ROWS[id].footer == word for id in ids)


async def test_a_disabled_key_says_why_as_help_does_beside_each_key_of_the_view(
    running: Home,
) -> None:
    async with shown(running, 100, 70) as (app, pilot):
        await view(app, pilot, "2", "trials", DONE)
        await pilot.press("s")
        await until(pilot, lambda: "it has ended already (done)" in text(app))
        await pilot.press("r")
        await until(pilot, lambda: text(app).count("it has ended already (done)") > 1)
        assert sent(running) == []
        app.clear_notifications()
        await pilot.press("question_mark")
        await until(pilot, lambda: "Keys of Trials" in text(app))
        whole = " ".join(text(app).replace("│", " ").split())
        for row in app.view_state.keymap.rows_for("Trials"):
            if row.keys:
                assert f"{' '.join(map(key_text, row.keys))} {row.text}" in whole
        assert "(trial 9: it has ended already (done))" in whole
        assert "queue" not in whole.replace("whole queue", "").lower().split("keys of")[1][:40]


FILTERS = [("4", "board", "#1[03]", {10, 13}), ("4", "board", "!done", None)]
FILTERS += [("5", "cards", "t4", None)]
"""A view's digit, its list, a filter, and the keys of the rows that it leaves; None for some."""


async def test_board_and_cards_are_filtered_too_but_not_a_trials_page(running: Home) -> None:
    async with shown(running) as (app, pilot):
        for digit, id, words, left in FILTERS:
            await press_and_settle(app, pilot, digit)
            rows = app.screen.query_one(f"#{id}", RowList)
            before = len(rows.rows)
            assert before > 1
            await pilot.press("slash", *words)
            await until(pilot, lambda: 0 < len(rows.rows) < before, words)  # noqa: B023
            assert left is None or {row.key for row in rows.rows} == left
            assert f"filter: {words}" in text(app)
            await press_and_settle(app, pilot, "escape")
            await until(pilot, lambda: len(rows.rows) == before, words)  # noqa: B023
        await press_and_settle(app, pilot, "1", "enter")
        assert "/ filter" not in text(app)
        await pilot.press("slash")
        await until(pilot, lambda: "has no list to filter" in text(app))


def test_the_documentation_has_the_table_of_today() -> None:
    assert page.PAGE.read_text() == page.renew_page(page.PAGE.read_text())


# --- keys of the user's own ---


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "workbench").mkdir()
    return tmp_path / "workbench" / "config.toml"


async def test_keys_of_the_users_own_act_and_are_shown(running: Home, config: Path) -> None:
    config.write_text('[keys]\ntrial.pause = "P"\nlist.down = ["j", "n"]\nundo = "ctrl+z"\n')
    async with shown(running, 120, 60) as (app, pilot):
        assert "P pause" in text(app)
        await pilot.press("p")
        await pilot.press("n")
        assert trials(app).key == RESUMED
        await pilot.press("P")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("pause", {"trial": RESUMED})]
        answer(running, True, "gives its card back")
        await until(pilot, lambda: "ctrl+z undoes it" in text(app))
        await pilot.press("question_mark")
        await until(pilot, lambda: "Keys of Dashboard" in text(app))
        assert "j n" in text(app)


MISTAKES = {
    'trial.stpo = "s"': "did you mean trial.stop?",
    'trial.stop = "p"': "p is the key of trial.pause already",
    'trial.stop = ""': "at least 1 character",
    "trial.stop = 5": "keys",
    "trial.stop = []": "names no key",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_named(config: Path, line: str) -> None:
    config.write_text(f"[keys]\n{line}\n")
    keymap, mistake = read_keymap()
    assert mistake is not None
    assert MISTAKES[line] in f"{mistake.what}. {mistake.hint}"
    assert keymap.changes() == {}


async def test_a_mistake_is_shown_and_all_keys_stay(running: Home, config: Path) -> None:
    [line, *_] = MISTAKES
    config.write_text(f"[keys]\n{line}\n")
    async with shown(running, 160, 50) as (app, pilot):
        await until(pilot, lambda: "your keys do not apply" in " ".join(text(app).split()))
        assert "keys.trial.stpo" in text(app)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))


def test_two_keys_can_be_exchanged() -> None:
    keymap = Keymap({"trial.stop": ["p"], "trial.pause": ["s"]})
    assert keymap.keys_of("trial.stop") == ("p",)
    with pytest.raises(KeyMistake):
        Keymap({"trial.stop": ["p"]})


def test_places_of_the_table_are_known() -> None:
    assert {row.place for row in TABLE} <= set(PLACES)
    assert {APP, LIST, VIEW} <= {row.place for row in TABLE}
