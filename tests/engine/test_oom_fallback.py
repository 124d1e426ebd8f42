"""Out of memory: step by step on a card, remembered for other trials, and failing with the sums."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cramped_worker import CrampedWorker
from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.attempts.events import AttemptEnd, Outcome
from workbench.footprint import Plan
from workbench.scheduler.plans.oom_fallback import MOST_FALLBACKS, MOST_WAITS, state_after
from workbench.scheduler.recover import requeue_all
from workbench.store import card_table
from workbench.store.rows import AttemptRow
from workbench.trial import DesiredState, State

WORKER = "tests.support.cramped_worker:CrampedWorker"
TRAIN = {
    "max_steps": 6,
    "save_every": 2,
    "log_every": 1,
    "learning_rate": 0.1,
    "batch_size": 4,
}
MakeBench = Callable[..., Bench]


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(holds: dict[str, int], *cards: dict[str, object]) -> Bench:
        CrampedWorker.holds, CrampedWorker.ran, CrampedWorker.taken = holds, [], 0
        made.append(make_bench(tmp_path, list(cards), WORKER))
        return made[-1]

    yield make
    for bench in made:
        bench.context.fleet.close()
        bench.store.close()


def rows_at_once(attempt: AttemptRow) -> int:
    return Plan.from_json(attempt.plan).micro_batch


def rows_tried(trial: int) -> list[tuple[int, bool]]:
    """(rows, recompute) of its attempts, in order, each once."""
    tried = [(rows, again) for _, one, rows, again in CrampedWorker.ran if one == trial]
    return list(dict.fromkeys(tried))


def test_a_trial_that_runs_out_goes_on_from_its_checkpoint_with_half_the_rows(
    cramped: MakeBench,
) -> None:
    bench = cramped({"cpu-0": 2}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    assert bench.until(State.DONE, trial).attempts == 2
    first, second = bench.store.attempts(trial)
    assert (first.outcome, first.cause, first.stage) == ("failed", "out_of_memory", "training")
    assert (rows_at_once(first), rows_at_once(second)) == (4, 2)
    assert second.plan["micro_steps"] == 2
    assert second.from_step == 2
    assert second.plan["buckets"]["activations"] < first.plan["buckets"]["activations"]


def test_memory_that_other_programs_took_changes_no_plan(cramped: MakeBench) -> None:
    bench = cramped({}, cpu_card(0))
    CrampedWorker.taken = MOST_WAITS - 1
    bench.submit(recipe(train=TRAIN, sweep={"parameters": {"train.seed": [1, 2]}}))
    first, second = (trial.id for trial in bench.trials() if trial.kind == "tune")
    assert bench.until(State.DONE, first, limit=200).attempts == MOST_WAITS
    assert bench.until(State.DONE, second).attempts == 1
    attempts = bench.store.attempts(first)
    pauses = [
        after.started_utc - before.ended_utc  # type: ignore[operator]
        for before, after in itertools.pairwise(attempts)
    ]
    assert [round(pause_s) for pause_s in pauses] == [5, 10, 20, 40, 80]
    assert bench.store.attempts(second)[0].started_utc - attempts[-1].ended_utc <= 1  # type: ignore[operator]
    assert [one.cause for one in attempts] == ["card_memory"] * (MOST_WAITS - 1) + [""]
    assert {rows_at_once(one) for one in [*attempts, *bench.store.attempts(second)]} == {4}
    found = [event for event in bench.store.events(trial=first) if event.kind == "card-memory"]
    assert len(found) == MOST_WAITS - 1
    assert "it goes on from the start" in found[0].text


def test_every_fallback_is_a_move_and_an_event_with_its_reason(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 1}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    bench.until(State.DONE, trial)
    back = [m.why for m in bench.store.moves(trial) if m.after == State.QUEUED]
    assert len(back) == 2
    assert all(
        "out of memory in training at step 3" in why and "next out-of-memory fallback" in why
        for why in back
    )
    found = [event for event in bench.store.events(trial=trial) if event.kind == "out-of-memory"]
    assert [event.level for event in found] == ["warning", "warning"]
    placed = [m.why for m in bench.store.moves(trial) if m.after == State.STARTING]
    assert [why.rpartition(", ")[2] for why in placed] == ["4 rows × 1", "2 rows × 2", "1 row × 4"]


def test_the_last_step_before_another_card_recomputes_every_layer(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 0}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    bench.until(State.DONE, trial)
    assert rows_tried(trial) == [(4, False), (2, False), (1, False), (1, True)]


def test_after_the_last_step_it_waits_for_a_bigger_card(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": -1}, cpu_card(0), cpu_card(1, 48.0))
    card_table.set_quarantine(bench.store, "cpu-1", "a test")
    bench.ticks()
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    bench.ticks(40)
    waiting = bench.store.trial(trial).waiting
    assert "cpu-1 quarantined" in waiting
    assert "cpu-0" not in waiting
    card_table.set_quarantine(bench.store, "cpu-1", "")
    bench.until(State.DONE, trial)
    tried = [(one.card, rows_at_once(one)) for one in bench.store.attempts(trial)]
    assert tried == [("cpu-0", 4), ("cpu-0", 2), ("cpu-0", 1), ("cpu-0", 1), ("cpu-1", 4)]


def test_with_no_bigger_card_it_fails_and_shows_the_sums(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": -1}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    row = bench.until(State.FAILED, trial)
    for part in ("4 rows × 1: ", "1 row × 4, recomputing every layer", "GiB predicted", "24.0 GiB"):
        assert part in row.reason
    assert "lower data.max_tokens to 32" in row.hint
    assert row.attempts == 4


def test_a_recipe_that_forbids_recompute_gets_none(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": -1}, cpu_card(0))
    bench.submit(recipe(train={**TRAIN, "gradient_checkpointing": "off"}))
    trial = bench.trials()[1].id
    bench.until(State.FAILED, trial)
    assert rows_tried(trial) == [(4, False), (2, False), (1, False)]


def test_the_other_trials_begin_at_the_step_that_was_found(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 1}, cpu_card(0))
    rates = [0.1, 0.2, 0.3, 0.4]
    bench.submit(recipe(train=TRAIN, sweep={"parameters": {"train.learning_rate": rates}}))
    tuned = [trial.id for trial in bench.trials() if trial.kind == "tune"]
    for trial in tuned:
        bench.until(State.DONE, trial)
    assert rows_tried(tuned[0]) == [(4, False), (2, False), (1, False)]
    assert [bench.store.trial(trial).attempts for trial in tuned] == [3, 1, 1, 1]


def test_a_step_holds_for_cards_of_the_same_kind_only(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 2}, cpu_card(0), cpu_card(1), cpu_card(2, 48.0))
    rates = [n / 10 for n in range(1, 9)]
    bench.submit(recipe(train=TRAIN, sweep={"parameters": {"train.learning_rate": rates}}))
    tuned = [trial.id for trial in bench.trials() if trial.kind == "tune"]
    for trial in tuned:
        bench.until(State.DONE, trial)
    tried = [one for trial in tuned for one in bench.store.attempts(trial)]
    fell = min(one.id for one in tried if one.cause)
    later = {(one.card, rows_at_once(one)) for one in tried if one.id > fell + 2}
    assert later == {("cpu-0", 2), ("cpu-1", 2), ("cpu-2", 4)}


def test_a_trial_that_takes_less_does_not_begin_at_the_step_of_one_that_takes_more(
    cramped: MakeBench,
) -> None:
    bench = cramped({"cpu-0": 2}, cpu_card(0))
    ranks = {"parameters": {"lora.rank": [64, 4, 128]}}
    bench.submit(recipe(train=TRAIN, sweep=ranks))
    tuned = [trial.id for trial in bench.trials() if trial.kind == "tune"]
    for trial in tuned:
        bench.until(State.DONE, trial)
    assert [rows_tried(trial)[0] for trial in tuned] == [(4, False), (4, False), (2, False)]


@pytest.mark.parametrize(
    ("cause", "most"),
    [("out_of_memory", MOST_FALLBACKS), ("card_memory", MOST_WAITS), ("host_memory", MOST_WAITS)],
)
def test_so_many_in_a_row_are_the_end_whatever_steps_are_left(
    cramped: MakeBench, cause: str, most: int
) -> None:
    bench = cramped({}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1]
    end = AttemptEnd(outcome=Outcome.FAILED, reason="no memory", hint="a hint", cause=cause)
    states = []
    for _ in range(most):
        attempt = bench.store.add_attempt(trial.id, "cpu-0", {}, 0, 0)
        bench.store.end_attempt(attempt, "failed", "no memory", cause=cause)
        found = state_after(bench.context, trial, end)
        assert found is not None
        states.append(found[0])
    assert states == [State.QUEUED] * (most - 1) + [State.FAILED]


def test_a_step_survives_the_engine(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 1}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    while len(bench.store.attempts(trial)) < 2:
        bench.ticks()
    bench.context.fleet.close()
    bench.context.plans.clear()
    bench.context.fallback_steps.clear()
    requeue_all(bench.context, "the engine was restarted")
    bench.until(State.DONE, trial)
    assert [rows_at_once(a) for a in bench.store.attempts(trial)] == [4, 2, 2, 1]


def test_a_pause_asked_for_meanwhile_is_kept(cramped: MakeBench) -> None:
    bench = cramped({"cpu-0": 2}, cpu_card(0))
    bench.submit(recipe(train=TRAIN))
    trial = bench.trials()[1].id
    while bench.store.trial(trial).step < 3:
        bench.ticks()
    bench.store.set_desired_state(trial, DesiredState.PAUSE)
    assert bench.until(State.PAUSED, trial).checkpoint_step
    bench.store.set_desired_state(trial, DesiredState.RUN)
    bench.until(State.DONE, trial)
