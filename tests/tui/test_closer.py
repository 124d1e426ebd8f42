"""Looking closer on the screen: marked trials are compared, and asked in a chat."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.tui.conftest import press_and_settle, shown, text, until
from tests.tui.filled import NOW
from tui.app import WorkbenchApp
from tui.screens.chat import Chat, Transcript, Turn
from tui.screens.panel import ErrorPanel, InputPanel
from tui.screens.trial import Trial
from tui.widgets.rowlist import RowList
from workbench.chat.session_files import LineFollower, append_line, session_of
from workbench.home import Home
from workbench.store.requests import Request, scan_requests
from workbench.store.rows import RequestAnswer
from workbench.store.writer import Store

BASE, LIVE = 8, 13
"""Trials of the filled home: the base of the experiment of today, and one that runs."""


def board(app: WorkbenchApp) -> RowList:
    return app.screen.query_one("#board", RowList)


async def on_board(app: WorkbenchApp, pilot: Pilot[int]) -> list[int]:
    """Go to the board that has scores by row; return its trials, best first."""
    await press_and_settle(app, pilot, "4")
    for _ in app.view_state.snapshot.experiments if app.view_state.snapshot else []:
        picture = app.view_state.picture
        assert picture is not None
        if picture.board and any(row.score_low is not None for row in picture.board.rows):
            return [row.trial for row in picture.board.rows if row.score is not None]
        await press_and_settle(app, pilot, "right_square_bracket")
    raise AssertionError("no board has results by row")


async def test_enter_compares_what_is_marked_and_opens_what_is_not(running: Home) -> None:
    async with shown(running) as (app, pilot):
        best = await on_board(app, pilot)
        await press_and_settle(app, pilot, "enter")
        assert isinstance(app.screen, Trial)
        await press_and_settle(app, pilot, "escape", "home", "space", "end")
        base = board(app).key
        assert base == BASE
        await pilot.press("enter")  # a single mark: with the row under the cursor
        await until(pilot, lambda: f"#{best[0]}, base compared" in text(app))
        await press_and_settle(app, pilot, "escape", "home", "down", "space")
        assert app.view_state.marked == {*best[:2]}
        await press_and_settle(app, pilot, "enter")
        await until(pilot, lambda: f"#{best[0]}, #{best[1]} compared" in text(app))
        assert f"differences from #{best[0]}, on the same rows" in text(app)


def answer_chat(home: Home, said: RequestAnswer) -> None:
    """Answer the request for a chat as the engine would."""
    store = Store(home.database, clock=lambda: NOW)
    for path, request in scan_requests(home.requests):
        assert isinstance(request, Request)
        assert request.verb == "chat"
        store.record_answer(request, said)
        path.unlink()
    store.close()


async def test_a_chat_shows_each_answer_as_it_is_written_or_why_it_was_refused(
    running: Home,
) -> None:
    files = session_of(running.trial(LIVE))
    asked = LineFollower(files.questions)
    async with shown(running, 80, 24) as (app, pilot):
        best = await on_board(app, pilot)
        await press_and_settle(app, pilot, "home", "t")
        await until(pilot, lambda: any(running.requests.glob("*.json")))
        answer_chat(
            running, RequestAnswer(ok=False, text="trial 9 is on another base", hint="", data={})
        )
        await until(pilot, lambda: "on another base" in text(app))
        assert app.screen.query_one("#typed", Input).disabled
        await press_and_settle(app, pilot, "escape", "t")
        await until(pilot, lambda: any(running.requests.glob("*.json")))
        # With a trial that holds a card.
        answer_chat(running, RequestAnswer(ok=True, text="", hint="", data={"trial": LIVE}))
        append_line(files.answers, {"ready": True})
        chat = app.screen
        assert isinstance(chat, Chat)
        await until(pilot, lambda: chat.transcript.status == "")
        assert files.person_is_there()
        await pilot.press(*"2+3?", "enter")
        found: list[object] = []

        def questions() -> list[object]:
            found.extend(asked.new_lines())
            return found

        await until(pilot, questions)
        append_line(files.answers, {"number": 1, "text": "it is\n5"})
        await until(pilot, lambda: f"#{best[0]} it is" in text(app))
        append_line(files.answers, {"number": 1, "ended_by": "end", "tokens": 4, "seconds": 1.0})
        await until(pilot, lambda: len(questions()) == 2)  # the base is asked next
        append_line(files.answers, {"number": 2, "text": "\x1b[31mno"})
        append_line(files.answers, {"number": 2, "ended_by": "length", "tokens": 9})
        await until(pilot, lambda: "9 tokens, length" in text(app))
        assert "base no" in text(app)
        await pilot.press("escape")
        await until(pilot, lambda: not files.person_is_there())


def test_a_transcript_shows_every_line_of_an_answer_with_its_name_once() -> None:
    said = Transcript(status="")
    said.turns = [Turn("", "why?"), Turn("#5", "so\nand so", "7 tokens")]
    lines = ["".join(part for part, _ in line) for line in said.lines()]
    assert lines == ["> why?", "#5 so", "  and so", "  7 tokens", ""]


async def test_e_scores_the_trial_on_the_rows_that_are_typed_once_they_are_there(
    whole: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "new rows.jsonl"
    rows.write_text('{"prompt": "1+1", "completion": "2"}\n')
    monkeypatch.chdir(tmp_path)
    async with shown(whole) as (app, pilot):
        best = await on_board(app, pilot)
        for _ in range(2):
            await press_and_settle(app, pilot, "home", "e")
            await until(pilot, lambda: isinstance(app.screen, InputPanel))
            field = app.screen.query_one(Input)
            field.value = field.value or "gone.jsonl"
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(app.screen, ErrorPanel))
            await pilot.pause()
            assert "there is no file" in text(app)
            assert "e   asks again, with what you typed" in text(app)
            await pilot.press("escape")
        await press_and_settle(app, pilot, "home", "e")
        await until(pilot, lambda: isinstance(app.screen, InputPanel))
        assert app.screen.query_one(Input).value == "gone.jsonl"
        app.screen.query_one(Input).value = "'new rows.jsonl' evaluate.max_new_tokens=7"
        await pilot.press("enter")
        await until(pilot, lambda: any(whole.requests.glob("*.json")))
        [(_, request)] = list(scan_requests(whole.requests))
        assert isinstance(request, Request)
        assert (request.verb, request.args["subjects"]) == ("evaluate", [best[0]])
        assert request.args["recipe"]["data"]["eval"] == str(rows)
        assert request.args["recipe"]["evaluate"]["max_new_tokens"] == 7
