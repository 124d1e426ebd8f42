"""Requests for whole experiments: stop, kill, pause and resume."""

from __future__ import annotations

import pytest

from tests.engine.test_control import LONG, MakeBench, ask
from tests.support.tick_contexts import recipe
from workbench.trial import Kind, State

TPE = {
    "method": "tpe",
    "trials": 6,
    "parameters": {"train.learning_rate": {"min": 0.001, "max": 0.1}},
}


def test_stopping_an_experiment_ends_its_trials_and_its_sweep(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(train=LONG, sweep=TPE))
    bench.ticks(20)
    assert bench.store.live_attempts()
    answer = ask(bench, "stop-experiment", experiment=id)
    assert answer.ok, answer.text
    bench.ticks(40)
    trials = [t for t in bench.store.trials(id) if t.kind is Kind.TUNE]
    assert trials
    assert all(trial.state.final for trial in trials)
    assert not bench.store.experiment(id).searching


def test_killing_an_experiment_keeps_no_adapter(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(train=LONG, sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    bench.until(State.RUNNING, 2)
    assert ask(bench, "kill-experiment", experiment=id).ok
    bench.ticks(40)
    trials = [t for t in bench.store.trials(id) if t.kind is Kind.TUNE]
    assert {(t.state, t.reason) for t in trials} == {(State.STOPPED, "killed")}
    assert not bench.store.db.execute("select * from adapters").fetchall()
    kept = {path.name for t in trials for path in bench.context.home.trial(t.id).glob("*")}
    assert not kept & {"adapter", "checkpoints", "results"}
    assert bench.store.experiment(id).outcomes == {"stopped": 0, "killed": 3}


def test_pausing_an_experiment_frees_its_cards_until_it_is_resumed(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(train=LONG, sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    bench.until(State.RUNNING, 2)
    assert ask(bench, "pause-experiment", experiment=id).ok
    bench.until(State.PAUSED, 2)
    assert not bench.store.live_attempts()
    assert bench.store.experiment(id).held
    assert ask(bench, "resume-experiment", experiment=id).ok
    bench.until(State.RUNNING, 2)


def test_resuming_an_experiment_resumes_the_base_that_it_awaits(bench_of: MakeBench) -> None:
    bench = bench_of()
    assert ask(bench, "hold").ok
    id = bench.submit(recipe(train=LONG))
    bench.ticks(3)
    base = bench.store.experiment(id).base_trial
    assert base is not None
    assert ask(bench, "pause", trial=base).ok
    assert ask(bench, "release").ok
    bench.until(State.RUNNING, 2)
    assert bench.store.trial(base).state is State.PAUSED
    other = bench.submit(recipe(train=LONG, name="other"))
    bench.ticks(1)
    assert bench.store.experiment(other).base_trial == base
    bench.store.steer_experiment(id, held=1)
    answer = ask(bench, "resume-experiment", experiment=other)
    assert (
        "its base waits for experiment tiny, which is held: `workbench resume tiny`" in answer.text
    )
    answer = ask(bench, "resume-experiment", experiment=id)
    assert f"its base, trial {base}, resumed" in answer.text
    assert bench.store.trial(base).desired_state == "run"


def test_an_experiment_that_is_being_prepared_can_be_stopped(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    answer = ask(bench, "stop-experiment", experiment=id)
    assert answer.ok
    found = bench.store.experiment(id)
    assert (found.state, found.reason) == ("refused", "stopped while it was prepared")
    bench.ticks(3)
    assert not bench.store.trials(id)


@pytest.mark.parametrize("act", ["stop", "kill", "pause", "resume"])
def test_an_experiment_that_has_ended_or_was_refused_is_left_as_it_is(
    bench_of: MakeBench, act: str
) -> None:
    bench = bench_of()
    ended = bench.submit(recipe())
    bench.until(State.DONE, 2)
    bench.ticks(3)
    answer = ask(bench, f"{act}-experiment", experiment=ended)
    assert not answer.ok
    assert "have ended already" in answer.text
    refused = bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    bench.store.mark_refused(refused, "no rows", "give it some")
    answer = ask(bench, f"{act}-experiment", experiment=refused)
    assert (answer.ok, answer.hint) == (False, "give it some")
    assert "was refused: it has no trials" in answer.text
    assert not any(one.held for one in bench.store.experiments())


def test_an_ended_experiment_that_is_held_can_be_released(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe())
    bench.until(State.DONE, 2)
    bench.store.steer_experiment(id, held=1)
    assert ask(bench, "resume-experiment", experiment=id).ok
    assert not bench.store.experiment(id).held
