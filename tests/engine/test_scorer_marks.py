"""Workers that ended while a user's own scorer ran: neither trial nor card is blamed."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.tick_contexts import Bench, cpu_card, recipe
from workbench.trial import State

GRID = {"parameters": {"train.learning_rate": [0.01, 0.05]}}
MakeBench = Callable[..., Bench]


def lose_to_a_scorer(bench: Bench, trial: int) -> None:
    """Ends the trial's worker as if its scorer had killed it."""
    (attempt,) = (one for one in bench.store.live_attempts() if one.trial == trial)
    mark = bench.context.home.trial(trial) / "scorers-running" / "rubric"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"losses": 1, "attempt": attempt.id}))
    bench.context.fleet.end("cpu-0", "its process ended")
    bench.ticks(1)


def test_two_trials_whose_scorer_ended_the_worker_put_no_card_into_quarantine(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=GRID))
    for trial in (2, 3):
        bench.until(State.RUNNING, trial)
        lose_to_a_scorer(bench, trial)
        (attempt,) = bench.store.attempts(trial)[-1:]
        assert attempt.outcome == "cut"
        assert "while the scorer rubric ran" in attempt.reason
        bench.until(State.DONE, trial)
    assert bench.store.cards()[0].quarantined == ""


def test_a_mark_of_an_earlier_attempt_excuses_no_later_loss(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    lose_to_a_scorer(bench, 2)
    bench.until(State.RUNNING, 2)
    bench.context.fleet.end("cpu-0", "fell off the bus")
    bench.ticks(1)
    assert [one.outcome for one in bench.store.attempts(2)] == ["cut", "lost"]


def test_a_trial_is_not_given_up_while_its_scorer_may_still_be_skipped(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe())
    for _ in range(2):
        bench.until(State.RUNNING, 2)
        lose_to_a_scorer(bench, 2)
    assert bench.until(State.DONE, 2).attempts == 3
