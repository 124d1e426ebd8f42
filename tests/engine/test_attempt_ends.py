"""A card whose trial has ended gets the next one at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from tests.support.tick_contexts import WORKER, Bench, cpu_card, make_bench, recipe
from workbench.attempts.events import EventWriter
from workbench.fleet import Report
from workbench.fleet.inline_fleet import InlineFleet
from workbench.scheduler.attempt_ends import sleep_until_an_end
from workbench.scheduler.tick_context import events_file
from workbench.trial import State


class LateFleet(InlineFleet):
    """An InlineFleet whose reports are as old as one tick, as those of a cluster can be."""

    _before: dict[str, Report] | None = None

    def observe(self) -> dict[str, Report]:
        now = super().observe()
        before, self._before = self._before, now
        return now if before is None else before


def test_a_card_takes_the_next_trial_in_the_tick_that_reads_the_end_of_its_last(
    tmp_path: Path,
) -> None:
    bench = make_bench(tmp_path, [cpu_card(0)])
    numbers = iter(range(1, 100))
    fleet = LateFleet(str(tmp_path / "home"), lambda card: next(numbers), worker=WORKER)
    bench.context.fleet = fleet
    bench.submit(recipe(sweep={"parameters": {"lora.rank": [4, 8, 16]}}))
    order = []
    for _ in range(200):
        bench.ticks(1)
        live = [one.id for one in bench.trials() if one.state.live]
        if all(one.state is State.DONE for one in bench.trials()):
            break
        assert live, "the card stands still while trials wait"
        order += live
    fleet.close()
    bench.store.close()
    assert len(set(order)) == 4  # the base's score and three trials


@pytest.fixture
def running(tmp_path: Path) -> Bench:
    """A trial that runs."""
    bench = make_bench(tmp_path, [cpu_card(0)])
    bench.submit(recipe(train={"max_steps": 1_000}))
    bench.until(State.RUNNING, 2)
    bench.context.fleet.close()
    return bench


def test_the_pause_between_two_ticks_ends_with_an_attempt(running: Bench) -> None:
    [attempt] = running.store.live_attempts()
    events = EventWriter(events_file(running.context.home, attempt.id))
    ended = threading.Timer(0.1, lambda: events.write("end", outcome="done", step=1))
    ended.start()
    began = time.monotonic()
    sleep_until_an_end(running.context, 60.0)
    assert time.monotonic() - began < 30.0
    ended.join()
    events.close()
    running.store.close()


def test_the_pause_lasts_while_attempts_run(running: Bench) -> None:
    began = time.monotonic()
    sleep_until_an_end(running.context, 0.1)
    assert time.monotonic() - began >= 0.1
    running.store.close()
