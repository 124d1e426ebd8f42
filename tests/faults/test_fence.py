"""A trial has one live attempt, also while the loop stands still between two of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.sound import event_lines
from tests.support.waiting import wait_for
from tests.support.whole import LIMIT_S, Whole
from workbench.machine.locks import lock_holder
from workbench.store.rows import AttemptRow
from workbench.trial import State

pytestmark = pytest.mark.fault


@pytest.mark.begins_early
def test_a_called_off_attempt_trains_nothing_while_the_loop_is_frozen(whole: Whole) -> None:
    """A trial moves while its first worker is still starting; then the loop stands still until
    that worker is up."""
    whole.two_running()
    moved, paused = whole.tuned()[-1].id, whole.tuned()[-2].id
    for trial in (moved, paused):
        whole.obeyed(whole.service.pause(trial))
        whole.until_state(trial, State.PAUSED)
    with whole.unharmed():
        whole.end_everything()  # so that workers have to start, which takes seconds
        whole.start()
        whole.obeyed(whole.service.resume(moved))
        first = wait_for(lambda: live_attempt(whole, moved), "it is placed", LIMIT_S)
        assert first is not None
        other = next(c.uuid for c in whole.service.snapshot().cards if c.uuid != first.card)
        whole.obeyed(whole.service.send("move", trial=moved, card=other))

        def replaced() -> AttemptRow | None:
            now = live_attempt(whole, moved)
            return now if now is not None and now.card == other else None

        second = wait_for(replaced, "it is placed on the other card", LIMIT_S)
        assert second is not None
        with frozen(whole):
            # Its start waits in the loop's process and arrives as soon as that goes on.
            taken = lambda: lock_holder(whole.home.card_lock(first.card, "cpu"))  # noqa: E731
            wait_for(taken, "the first worker is up", LIMIT_S)

        def committed() -> bool:  # by the second attempt, or by one after it
            now = live_attempt(whole, moved)
            return now is not None and now.id > first.id and "checkpoint" in kinds(whole, now.id)

        wait_for(committed, "a later attempt commits", LIMIT_S)
        assert not {"metric", "checkpoint", "adapter"} & set(kinds(whole, first.id))
        whole.two_running()


@contextmanager
def frozen(whole: Whole) -> Iterator[None]:
    """Stop the loop, and the keeper, which would restart it after 30 s."""
    keeper, loop = whole.keeper(), whole.pid("loop")
    for pid in (keeper, loop):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        tick = whole.home.tick.stat().st_mtime_ns
        os.kill(loop, signal.SIGCONT)
        wait_for(lambda: whole.home.tick.stat().st_mtime_ns != tick, "the loop ticks")
        os.kill(keeper, signal.SIGCONT)


def live_attempt(whole: Whole, trial: int) -> AttemptRow | None:
    return next((a for a in whole.live() if a.trial == trial), None)


def kinds(whole: Whole, attempt: int) -> list[str]:
    return [event.kind for event in event_lines(whole.home, attempt)]
