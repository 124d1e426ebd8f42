"""Events are listed as they came to the head, whatever other machines' clocks say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench.attempts.events import EventWriter
from workbench.scheduler.tick_context import events_file
from workbench.trial import State

MakeBench = Callable[..., Bench]
LONG: dict[str, Any] = {"train": {"max_steps": 900, "save_every": 500}}


def test_events_are_listed_as_they_came_whatever_a_boxs_clock_says(bench_of: MakeBench) -> None:
    bench = bench_of(*({**cpu_card(0), "uuid": f"{box}:cpu-0"} for box in ("ahead", "behind")))
    bench.submit(recipe(**LONG, sweep={"parameters": {"train.learning_rate": [0.1, 0.2]}}))
    bench.until(State.RUNNING, 3)
    clocks = {"ahead:cpu-0": 86_400.0, "behind:cpu-0": -86_400.0}
    for turn in range(3):
        for attempt in bench.store.live_attempts():
            clock = partial(float, bench.now + clocks[attempt.card])
            writer = EventWriter(events_file(bench.context.home, attempt.id), clock)
            writer.write("log", level="warning", text=f"turn {turn} of {attempt.card}")
            writer.close()
            bench.ticks(1)
    told = [event.text for event in bench.store.events() if event.text.startswith("turn ")]
    assert [text.split()[1] for text in told] == ["0", "0", "1", "1", "2", "2"]
    assert len({text.split()[-1] for text in told}) == 2
