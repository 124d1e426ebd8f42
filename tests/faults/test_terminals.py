"""Terminals killed, cut off, and commanding at once; requests that come twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.support.pty_app import PtyApp
from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole, short_recipe
from workbench.store.requests import drop_request
from workbench.trial import State

pytestmark = pytest.mark.fault


@pytest.fixture
def terminal(whole: Whole) -> Iterator[Callable[[], PtyApp]]:
    opened: list[PtyApp] = []

    def open_one() -> PtyApp:
        opened.append(PtyApp(whole.home.root))
        opened[-1].read_until(lambda: b"Dashboard" in opened[-1].seen, LIMIT_S)
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.parametrize("how", [pytest.param("killed", marks=pytest.mark.slow), "hung up"])
def test_a_screen_that_is_killed_changes_nothing(
    how: str, whole: Whole, terminal: Callable[[], PtyApp]
) -> None:
    before = whole.two_running()
    attempts = {a.id for a in whole.live()}
    with whole.unharmed():
        one = terminal()
        if how == "killed":
            one.process.kill()
        else:
            one.hang_up()
        assert one.process.wait(60) == (-signal.SIGKILL if how == "killed" else 128 + signal.SIGHUP)
        whole.until_further(before)
    assert {a.id for a in whole.live()} == attempts


def test_two_screens_that_command_at_once_are_both_answered(
    whole: Whole, terminal: Callable[[], PtyApp]
) -> None:
    whole.two_running()
    asked = len(_asked(whole, "pause"))
    with whole.unharmed():
        pair = [terminal(), terminal()]
        for one in pair:
            one.read_until(lambda one=one: b"running" in one.seen, LIMIT_S)  # type: ignore[misc]
        # The loop stands until both have asked: a screen that already saw the first pause would
        # ask for none.
        loop = whole.pid("loop")
        os.kill(loop, signal.SIGSTOP)
        for one in pair:
            os.write(one.master, b"p")
        sent = whole.home.requests
        wait_for(lambda: len(list(sent.glob("[!.]*.json"))) == 2, "both have asked", LIMIT_S)
        os.kill(loop, signal.SIGCONT)
        wait_for(lambda: len(_asked(whole, "pause")) == asked + 2, "both are answered", LIMIT_S)
        # Each screen commands the trial under its own cursor: one and the same, or one each.
        answered = _asked(whole, "pause")[asked:]
        assert all(ok for _, ok in answered)
        for arguments, _ in answered:
            whole.until_state(json.loads(arguments)["trial"], State.PAUSED)
        for one in pair:
            one.close()


def _asked(whole: Whole, verb: str) -> list[tuple[str, int]]:
    """(arguments, whether it was granted) of every request of that verb, oldest first."""
    reader = whole.service.reader()
    assert reader is not None
    query = "select args, ok from requests where verb = ? order by answered_utc, id"
    return [(row["args"], row["ok"]) for row in reader.db.execute(query, (verb,))]


def test_the_same_request_sent_twice_is_carried_out_once(whole: Whole) -> None:
    whole.two_running()
    before = len(whole.service.snapshot().experiments)
    recipe = short_recipe("train.max_steps=4").model_dump(mode="json")
    with whole.unharmed():
        for _ in range(2):
            drop_request(whole.home.requests, "submit", {"recipe": recipe}, id="sent-twice")
            whole.obeyed("sent-twice")
            left = whole.home.requests / "sent-twice.json"
            wait_for(lambda left=left: not left.exists(), "it is taken away", LIMIT_S)  # type: ignore[misc]
        assert len(whole.service.snapshot().experiments) == before + 1
        answer = whole.service.answer("sent-twice")
        assert answer is not None
        whole.give_up(answer.data["experiment"])
