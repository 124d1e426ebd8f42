"""Acting on many trials at once, undoing, and keys pressed faster than the store is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import (
    answer,
    answer_all,
    press_and_settle,
    settled,
    shown,
    text,
    until,
)
from tests.tui.filled import NOW
from tests.tui.test_steering import DONE, PAUSED, QUEUED, RESUMED, RUNNING, SECOND, sent, view
from tui.acts.undo import undo_request
from tui.app import WorkbenchApp
from tui.messages import Wish
from tui.screens.panel import Choice, Confirm, TypeId
from workbench.home import Home
from workbench.service import Service, Snapshot
from workbench.store import card_table
from workbench.store.writer import Store

LAST = 19
"""The last trial of the queue."""


@pytest.fixture(scope="module")
def snapshot(template: Path) -> Iterator[Snapshot]:
    service = Service(Home(template), lambda: NOW)
    yield service.snapshot()
    service.close()


async def mark(app: WorkbenchApp, pilot: Pilot[Any], *trials: int) -> None:
    """Mark the trials in Trials."""
    for trial in trials:
        await view(app, pilot, "2", "trials", trial)
        await pilot.press("space")
        await settled(app, pilot)
    assert app.view_state.marked == set(trials)


async def ask_for_experiment(app: WorkbenchApp, pilot: Pilot[Any]) -> None:
    """Open the panel with the actions on the experiment of the trial under the cursor."""
    await pilot.press("S")
    await until(pilot, lambda: isinstance(app.screen, Choice))


async def press_on_queued(app: WorkbenchApp, pilot: Pilot[Any], *keys: str) -> None:
    """Press the keys in Queue, on its first trial."""
    await view(app, pilot, "3", "queue", QUEUED)
    await pilot.press(*keys)


async def test_one_question_ends_all_marked_trials_and_killing_asks_for_their_number(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        await mark(app, pilot, RUNNING, QUEUED)
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, TypeId))
        await pilot.press("3", "enter")
        assert sent(running) == []
        await pilot.press("2", "enter")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert {verb for verb, _ in sent(running)} == {"kill"}
        assert not app.view_state.marked
        answer(running, True, "is killed")
        await until(pilot, lambda: "2 trials: killed" in text(app))
        await mark(app, pilot, RUNNING, QUEUED, DONE)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await until(pilot, lambda: "Stop 2 trials?" in text(app))
        assert "1 running, 1 queued" in text(app)
        assert "1 of the marked ones has ended already." in text(app)
        await pilot.press("y")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert sorted(sent(running), key=str) == [
            ("stop", {"trial": RUNNING}),
            ("stop", {"trial": QUEUED}),
        ]
        assert not app.view_state.marked


async def test_space_space_s_stops_both_and_not_the_row_below(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("space", "space", "s")
        await until(pilot, lambda: "Stop 2 trials?" in text(app))
        await pilot.press("y")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert {args["trial"] for _, args in sent(running)} == {RUNNING, RESUMED}


async def test_marked_trials_are_paused_together_and_U_resumes_them(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await mark(app, pilot, RUNNING, RESUMED)
        await pilot.press("p")
        await until(pilot, lambda: len(sent(running)) == 2)
        answer(running, True, "gives its card back")
        await until(pilot, lambda: "2 trials: pausing" in text(app))
        assert "U undoes it" in text(app)
        await pilot.press("U")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert {verb for verb, _ in sent(running)} == {"resume"}


async def test_two_hundred_marks_are_no_limit_and_escape_takes_them_away(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_and_settle(app, pilot, "2")
        for trial in range(200):
            app.view_state.toggle(trial)
        assert len(app.view_state.marked) == 200
        assert len(app.view_state.drawn()) == 8
        await press_and_settle(app, pilot, "escape")
        assert not app.view_state.marked
        assert app.current_mode == "Trials"


async def test_keys_pressed_faster_than_the_store_is_read_count_on(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_on_queued(app, pilot, "plus", "plus", "plus")
        await until(pilot, lambda: len(sent(running)) == 3)
        assert [args["priority"] for _, args in sent(running)] == [1, 2, 3]
        await answer_all(app, pilot, running)
        await pilot.press("h", "h", "H", "H")
        await until(pilot, lambda: len(sent(running)) == 4)
        assert [verb for verb, _ in sent(running)] == ["hold", "release", "hold", "release"]


async def test_a_refused_priority_counts_no_longer(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_on_queued(app, pilot, "plus")
        await until(pilot, lambda: sent(running))
        answer(running, False, "1 will not do")
        await until(pilot, lambda: "will not do" in text(app))
        await pilot.press("escape", "minus")
        await until(pilot, lambda: sent(running))
        assert sent(running)[0][1]["priority"] == -1


async def test_the_edge_of_the_queue_says_so_and_U_puts_a_trial_back_to_its_place(
    running: Home,
) -> None:
    async with shown(running) as (app, pilot):
        for key, row, edge in (("u", QUEUED, "first"), ("d", LAST, "last")):
            await view(app, pilot, "3", "queue", row)
            await pilot.press(key)
            words = f"is the {edge} of its experiment already"
            await until(pilot, lambda words=words: words in text(app))  # type: ignore[misc]
        assert sent(running) == []
        await view(app, pilot, "3", "queue", SECOND)
        await pilot.press("f")
        await until(pilot, lambda: sent(running))
        answer(running, True, "trial 18 is next")
        await until(pilot, lambda: "U undoes it" in text(app))
        await pilot.press("U")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("order", {"trial": SECOND, "to": "place", "rank": None})]


async def test_S_acts_on_the_whole_experiment(running: Home) -> None:
    async with shown(running) as (app, pilot):
        for key, verb in (
            ("p", "pause-experiment"),
            ("r", "resume-experiment"),
            ("h", "hold"),
            ("s", "stop-experiment"),
            ("K", "kill-experiment"),
        ):
            await ask_for_experiment(app, pilot)
            await until(pilot, lambda: "All trials of llama3-8b-support" in text(app))
            await pilot.press(key)
            if verb == "stop-experiment":
                await until(pilot, lambda: isinstance(app.screen, Confirm))
                await pilot.press("y")
            elif verb == "kill-experiment":  # asks for the number of its trials
                await until(pilot, lambda: isinstance(app.screen, TypeId))
                await pilot.press("7", "enter")
            await until(pilot, lambda: sent(running), verb)
            assert sent(running) == [(verb, {"experiment": 2})]
            await answer_all(app, pilot, running, verb)


@pytest.mark.parametrize(
    ("verb", "args", "revert"),
    [
        ("pause", {"trial": RUNNING}, Wish("resume", {"trial": RUNNING})),
        ("resume", {"trial": PAUSED}, Wish("pause", {"trial": PAUSED})),
        ("drain", {"card": "x", "now": True}, Wish("undrain", {"card": "x"})),
        ("undrain", {"card": "x"}, Wish("drain", {"card": "x", "now": False})),
        ("undrain", {"card": "x", "quarantine": True}, None),
        ("hold", {}, Wish("release", {})),
        ("release", {"experiment": 2}, Wish("hold", {"experiment": 2})),
        (
            "priority",
            {"experiment": 2, "priority": 7},
            Wish("priority", {"experiment": 2, "priority": 0}),
        ),
        (
            "max-parallel",
            {"experiment": 2, "limit": 1},
            Wish("max-parallel", {"experiment": 2, "limit": None}),
        ),
        ("move", {"trial": QUEUED, "card": "x"}, Wish("move", {"trial": QUEUED, "card": "any"})),
        ("stop", {"trial": RUNNING}, None),
    ],
)
def test_each_action_without_a_question_has_a_request_that_undoes_it(
    snapshot: Snapshot, verb: str, args: dict[str, Any], revert: Wish | None
) -> None:
    assert undo_request(Wish(verb, args), snapshot) == revert


def test_a_trial_that_runs_moves_back_to_its_card(snapshot: Snapshot) -> None:
    [row] = [row for row in snapshot.trials if row.id == RUNNING]
    back = undo_request(Wish("move", {"trial": RUNNING, "card": "x"}), snapshot)
    assert back == Wish("move", {"trial": RUNNING, "card": row.card})


async def test_d_undrains_a_card_and_U_drains_it_again(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    uuid = store.cards()[0].uuid
    card_table.set_drained(store, uuid, True)
    store.close()
    async with shown(running) as (app, pilot):
        await view(app, pilot, "5", "cards", uuid)
        await pilot.press("d")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("undrain", {"card": uuid})]
        answer(running, True, "the card takes trials")
        await until(pilot, lambda: "U undoes it" in text(app))
        await pilot.press("U")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("drain", {"card": uuid, "now": False})]
