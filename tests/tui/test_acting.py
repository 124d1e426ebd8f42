"""Acting on many trials at once, undoing, and keys pressed faster than the store is read."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from tests.tui.conftest import answer, settled, shown, text, until
from tests.tui.filled import NOW
from tests.tui.test_steering import DONE, PAUSED, QUEUED, RESUMED, RUNNING, SECOND, sent, view
from tui.acts.undo import undo_request
from tui.app import WorkbenchApp
from tui.messages import Wish
from tui.screens.panel import Choice, Confirm, TypeId
from workbench.home import Home
from workbench.store import card_table
from workbench.store.writer import Store


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


async def test_one_question_stops_all_marked_trials(running: Home) -> None:
    async with shown(running) as (app, pilot):
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


async def test_killing_marked_trials_asks_for_their_number(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await mark(app, pilot, RUNNING, QUEUED)
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, TypeId))
        await pilot.press("3", "enter")
        assert sent(running) == []
        await pilot.press("2", "enter")
        await until(pilot, lambda: len(sent(running)) == 2)
        assert {verb for verb, _ in sent(running)} == {"kill"}


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


async def test_escape_takes_the_marks_away(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await mark(app, pilot, RUNNING)
        await pilot.press("escape")
        await settled(app, pilot)
        assert not app.view_state.marked
        assert app.current_mode == "Trials"


async def test_two_hundred_marks_are_no_limit(running: Home) -> None:
    async with shown(running) as (app, _pilot):
        for trial in range(200):
            app.view_state.toggle(trial)
        assert len(app.view_state.marked) == 200
        assert len(app.view_state.drawn()) == 8


async def test_plus_plus_plus_raises_the_priority_by_three(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_on_queued(app, pilot, "plus", "plus", "plus")
        await until(pilot, lambda: len(sent(running)) == 3)
        assert [args["priority"] for _, args in sent(running)] == [1, 2, 3]


async def test_h_h_ends_as_it_began(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await press_on_queued(app, pilot, "h", "h", "H", "H")
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


@pytest.mark.parametrize(("key", "row", "edge"), [("u", QUEUED, "first"), ("d", 19, "last")])
async def test_the_edge_of_the_queue_says_so_and_sends_nothing(
    running: Home, key: str, row: int, edge: str
) -> None:
    async with shown(running) as (app, pilot):
        await view(app, pilot, "3", "queue", row)
        await pilot.press(key)
        await until(pilot, lambda: f"is the {edge} of its experiment already" in text(app))
        assert sent(running) == []


async def test_U_puts_a_trial_back_to_its_place(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await view(app, pilot, "3", "queue", SECOND)
        await pilot.press("f")
        await until(pilot, lambda: sent(running))
        answer(running, True, "trial 18 is next")
        await until(pilot, lambda: "U undoes it" in text(app))
        await pilot.press("U")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("order", {"trial": SECOND, "to": "place", "rank": None})]


async def test_U_without_an_action_says_why(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await pilot.press("U")
        await until(pilot, lambda: "nothing was done that can be undone" in text(app))


async def test_S_acts_on_the_whole_experiment(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await ask_for_experiment(app, pilot)
        await until(pilot, lambda: "All trials of llama3-8b-support" in text(app))
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("stop-experiment", {"experiment": 2})]


@pytest.mark.parametrize(
    ("key", "verb"), [("p", "pause-experiment"), ("r", "resume-experiment"), ("h", "hold")]
)
async def test_an_experiment_is_paused_resumed_and_held_at_once(
    running: Home, key: str, verb: str
) -> None:
    async with shown(running) as (app, pilot):
        await ask_for_experiment(app, pilot)
        await pilot.press(key)
        await until(pilot, lambda: sent(running))
        assert sent(running) == [(verb, {"experiment": 2})]


async def test_killing_an_experiment_asks_for_the_number_of_its_trials(running: Home) -> None:
    async with shown(running) as (app, pilot):
        await ask_for_experiment(app, pilot)
        await pilot.press("K")
        await until(pilot, lambda: isinstance(app.screen, TypeId))
        await pilot.press("7", "enter")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("kill-experiment", {"experiment": 2})]


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
async def test_each_action_without_a_question_has_a_request_that_undoes_it(
    running: Home, verb: str, args: dict[str, Any], revert: Wish | None
) -> None:
    async with shown(running) as (app, _pilot):
        assert undo_request(Wish(verb, args), app.view_state.snapshot) == revert


async def test_a_trial_that_runs_moves_back_to_its_card(running: Home) -> None:
    async with shown(running) as (app, _pilot):
        row = app.view_state.trial(RUNNING)
        assert row is not None
        back = undo_request(Wish("move", {"trial": RUNNING, "card": "x"}), app.view_state.snapshot)
        assert back == Wish("move", {"trial": RUNNING, "card": row.card})


async def test_U_drains_a_card_again(running: Home) -> None:
    store = Store(running.database, clock=lambda: NOW)
    uuid = store.cards()[0].uuid
    card_table.set_drained(store, uuid, True)
    store.close()
    async with shown(running) as (app, pilot):
        await view(app, pilot, "5", "cards", uuid)
        await pilot.press("d")
        await until(pilot, lambda: sent(running))
        answer(running, True, "the card takes trials")
        await until(pilot, lambda: "U undoes it" in text(app))
        await pilot.press("U")
        await until(pilot, lambda: sent(running))
        assert sent(running) == [("drain", {"card": uuid, "now": False})]
