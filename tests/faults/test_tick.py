"""The engine is killed at every named point of its tick: the next one continues as if nothing had
happened.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.support.whole import Whole, short_recipe
from workbench.trial import State

pytestmark = pytest.mark.fault

BACK = r"the engine was restarted: the loop exited with -9; what ran goes on from its last"
TICK_POINTS = [
    pytest.param("process_requests.before_commit", "pause", marks=pytest.mark.slow),
    ("process_requests.after_commit", "pause"),
    pytest.param("reconcile.after_halt", "pause", marks=pytest.mark.slow),
    pytest.param("ingest.before_commit", "nothing", marks=pytest.mark.slow),
    pytest.param("ingest.after_commit", "nothing", marks=pytest.mark.slow),
    pytest.param("recover.before_commit", "worker", marks=pytest.mark.slow),
    pytest.param("recover.after_commit", "worker", marks=pytest.mark.slow),
    pytest.param("place.before_row", "worker", marks=pytest.mark.slow),
    pytest.param("place.before_commit", "worker", marks=pytest.mark.slow),
    pytest.param("place.after_commit", "worker", marks=pytest.mark.slow),
    ("place.after_start", "worker"),
    pytest.param("propose_trials.before_commit", "submit", marks=pytest.mark.slow),
    pytest.param("propose_trials.after_commit", "submit", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("point", "by"), TICK_POINTS)
def test_the_engine_killed_at(point: str, by: str, whole: Whole) -> None:
    whole.two_running()
    before = whole.live()
    loop = whole.pid("loop")
    with whole.unharmed(told=BACK):
        whole.arm(f"{point}=kill")
        undo = _provoke(whole, by)
        assert whole.fired() == loop
        undo()
        whole.until_later_attempts(before)


def _provoke(whole: Whole, by: str) -> Callable[[], None]:
    """Something that makes the tick come by; gives what is to be waited for and put back after."""
    victim = sorted(whole.live(), key=lambda a: a.card)[0]
    if by == "pause":
        request = whole.service.pause(victim.trial)

        def resume() -> None:
            whole.obeyed(request)
            whole.until_state(victim.trial, State.PAUSED)
            whole.obeyed(whole.service.resume(victim.trial))

        return resume
    if by == "worker":
        whole.kill(victim.pid or 0)
    if by == "submit":
        request = whole.service.submit(short_recipe("train.max_steps=4"))

        def prepared_once() -> None:
            """Its only trial was queued once, behind the long ones."""
            whole.obeyed(request)
            answer = whole.service.answer(request)
            assert answer is not None
            whole.give_up(answer.data["experiment"])
            trials = whole.service.trials(answer.data["experiment"])
            assert [t.number for t in trials if t.kind == "tune"] == [1]

        return prepared_once
    return lambda: None


@pytest.mark.slow
def test_the_engine_killed_at_random_moments_for_a_minute(whole: Whole) -> None:
    dice = random.Random(7)
    whole.two_running()
    until = time.monotonic() + 60
    with whole.unharmed(told=BACK):
        while time.monotonic() < until:
            whole.two_running()
            whole.until_further({t: s + dice.randrange(20) for t, s in whole.steps().items()})
            whole.kill(whole.pid("loop"))
        whole.two_running()
