"""Finals: the best settings of a sweep are trained again with other seeds, once and to the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_control import ask
from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench import fault_points
from workbench.scheduler.recover import requeue_all
from workbench.store.board import rank_adapters
from workbench.store.queries import sweep_progress
from workbench.store.queries.history import read_past, settings_by_merit
from workbench.store.requests import drop_request
from workbench.store.rows import TrialRow
from workbench.trial import State

MakeBench = Callable[..., Bench]
TRAIN = {"max_steps": 6, "save_every": 2, "log_every": 1, "learning_rate": 0.1}
RATES = {"train.learning_rate": [0.01, 0.05, 0.1, 0.02]}
RANGE = {"train.learning_rate": {"min": 0.001, "max": 0.15, "log": True}}
TWO = {"top": 2, "seeds": 3}


def grid(**more: Any) -> dict[str, Any]:
    return {"parameters": RATES, "finals": TWO, **more}


def finals_of(bench: Bench) -> list[TrialRow]:
    return [t for t in bench.trials() if t.finals_of is not None]


def swept(bench: Bench) -> list[TrialRow]:
    return [t for t in bench.trials() if t.kind == "tune" and t.finals_of is None]


def finish(bench: Bench, experiment: int = 1) -> None:
    for _ in range(400):
        if bench.store.experiment(experiment).ended_utc:
            return
        bench.ticks()
    raise AssertionError("it never ended")


def test_the_best_settings_are_trained_again_with_new_seeds(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    finish(bench)
    again = finals_of(bench)
    assert [t.state for t in again] == [State.DONE] * 6
    # Trial 4 has the rate 0.1 and trial 3 the rate 0.05: the leader's come first.
    assert [t.finals_of for t in again] == [4, 4, 4, 3, 3, 3]
    assert [t.settings["train.learning_rate"] for t in again] == [0.1] * 3 + [0.05] * 3
    seeds = [t.settings["train.seed"] for t in again]
    assert len({*seeds, 42}) == 7


def test_the_end_is_reported_once_and_after_the_finals(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    finish(bench)
    bench.ticks(5)
    [ended] = [e for e in bench.store.events() if e.kind == "ended"]
    [began] = [e for e in bench.store.events() if e.kind == "finals"]
    assert began.id < ended.id
    assert "finals of trials 4, 3 begin: 6 trials with new seeds" in began.text
    assert "10 done" in ended.text


@pytest.mark.parametrize(
    "sweep",
    [
        {"method": "random", "trials": 5, "parameters": RANGE},
        {"method": "tpe", "trials": 5, "parameters": RANGE},
        {"method": "tpe", "trials": 5, "parameters": RANGE, "early_stop": {"method": "asha"}},
        {"parameters": RATES, "early_stop": {"method": "asha", "from_step": 2}},
        {"method": "random", "hours": 0.01, "parameters": RANGE},
    ],
    ids=["random", "tpe", "tpe-asha", "grid-asha", "budget"],
)
def test_every_kind_of_sweep_ends_in_its_finals(bench_of: MakeBench, sweep: dict[str, Any]) -> None:
    bench = bench_of()
    bench.submit(
        recipe(sweep={**sweep, "finals": TWO}, train=TRAIN, evaluate={"every": 1}),
    )
    finish(bench)
    again = finals_of(bench)
    best = [r.trial for r in board(bench) if r.state == "done" and r.kind == "tune"][:2]
    assert [t.finals_of for t in again] == [id for id in best for _ in range(3)]
    assert {t.state for t in again} == {State.DONE}


def board(bench: Bench) -> list[Any]:
    return rank_adapters(bench.store, bench.store.experiment(1), bench.now)


def test_early_stopping_ends_no_trial_of_the_finals(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    # A trial with the curve of the first one would end, now that the better second has finished.
    sweep = {
        "parameters": {"train.learning_rate": [0.05, 0.1]},
        "early_stop": {"method": "median", "trials": 1},
        "finals": {"top": 2, "seeds": 2},
    }
    bench.submit(recipe(sweep=sweep, train=TRAIN, evaluate={"every": 1}))
    finish(bench)
    assert [t.finals_of for t in finals_of(bench)] == [3, 3, 2, 2]
    assert {(t.state, t.step) for t in finals_of(bench)} == {(State.DONE, 6)}


def test_finals_are_no_part_of_the_search_nor_of_the_ranking(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN, evaluate={"every": 2}))
    finish(bench)
    experiment = bench.store.experiment(1)
    assert [one.number for one in read_past(bench.store, 1, "loss")] == [1, 2, 3, 4]
    assert len(settings_by_merit(bench.store, experiment)[0]) == 4
    assert [row.trial for row in board(bench) if row.rank] == [4, 3, 5, 2]
    _, spent_s = sweep_progress.time_spent(bench.store, 1, bench.now)
    assert spent_s == sum(
        a.ended_utc - a.started_utc
        for t in swept(bench)
        for a in bench.store.attempts(t.id)
        if a.ended_utc
    )


def test_more_trials_of_the_sweep_can_be_drawn_after_the_finals(bench_of: MakeBench) -> None:
    bench = bench_of()
    sweep = {"method": "tpe", "trials": 4, "parameters": RANGE, "finals": TWO}
    bench.submit(recipe(sweep=sweep, train=TRAIN))
    finish(bench)
    assert ask(bench, "add", experiment=1, trials=2).ok
    finish(bench)
    assert len(swept(bench)) == 6
    assert len(finals_of(bench)) == 6
    assert len({t.number for t in bench.trials()}) == len(bench.trials())


def test_without_finals_in_the_recipe_none_begin(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": RATES}, train=TRAIN))
    finish(bench)
    assert finals_of(bench) == []


# --- the request ---


def test_finals_can_be_asked_for_after_the_end(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": RATES}, train=TRAIN))
    finish(bench)
    answer = ask(bench, "finals", experiment="tiny", top=2, seeds=2)
    assert answer.ok, answer.text
    assert answer.data["finalists"] == [4, 3]
    assert answer.data["trials"] == [t.id for t in finals_of(bench)]
    assert bench.store.experiment(1).ended_utc is None
    finish(bench)
    assert [t.finals_of for t in finals_of(bench)] == [4, 4, 3, 3]


def test_asked_for_again_only_what_is_missing_is_added(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    finish(bench)
    first = finals_of(bench)
    same = ask(bench, "finals", experiment=1, top=2, seeds=3)
    assert same.ok
    assert "lack nothing" in same.text
    assert finals_of(bench) == first
    assert ask(bench, "finals", experiment=1, top=3, seeds=4).ok
    more = [t for t in finals_of(bench) if t.id not in {one.id for one in first}]
    assert [t.finals_of for t in more] == [4, 3, 5, 5, 5, 5]
    seeds = [t.settings["train.seed"] for t in finals_of(bench)]
    assert len(set(seeds)) == len(seeds) == 12


def test_finals_of_a_running_sweep_begin_at_its_end(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": RATES}, train=TRAIN))
    bench.ticks(3)
    answer = ask(bench, "finals", experiment=1, top=1, seeds=2)
    assert answer.ok
    assert "when all its trials have ended" in answer.text
    assert finals_of(bench) == []
    finish(bench)
    assert [t.finals_of for t in finals_of(bench)] == [4, 4]


def test_fewer_finished_trials_than_asked_for_are_all_taken(bench_of: MakeBench) -> None:
    bench = bench_of()
    rates = {"train.learning_rate": [0.01, 0.666, 0.05]}  # the second fails
    bench.submit(recipe(sweep={"parameters": rates}, train=TRAIN))
    finish(bench)
    answer = ask(bench, "finals", experiment=1, top=5, seeds=2)
    assert "2 finished settings, not 5" in answer.text
    assert answer.data["finalists"] == [4, 2]


def test_an_experiment_without_scores_has_no_finals(bench_of: MakeBench) -> None:
    bench = bench_of()
    rates = {"train.learning_rate": [0.666]}
    bench.submit(recipe(sweep={"parameters": rates, "finals": TWO}, train=TRAIN))
    finish(bench)
    answer = ask(bench, "finals", experiment=1)
    assert not answer.ok
    assert "no trial of experiment tiny has finished with a score" in answer.text
    assert "workbench board" in answer.hint
    told = [e.text for e in bench.store.events() if e.kind == "finals"]
    assert told == ["experiment tiny: no finals, because no trial has finished with a score"]


@pytest.mark.parametrize("wrong", [{"top": 0}, {"seeds": 1}, {"top": "3"}, {"seeds": 101}])
def test_numbers_that_make_no_finals_are_refused(
    bench_of: MakeBench, wrong: dict[str, Any]
) -> None:
    bench = bench_of()
    bench.submit(recipe())
    assert not ask(bench, "finals", experiment=1, **wrong).ok


def test_one_setting_with_several_seeds_is_one_finalist(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}, train=TRAIN))
    finish(bench)
    assert ask(bench, "finals", experiment=1, top=3, seeds=2).ok
    assert [t.finals_of for t in finals_of(bench)] == [2, 2]
    assert not {t.settings["train.seed"] for t in finals_of(bench)} & {1, 2, 3, 42}


# --- stops and failures ---


def test_a_final_that_a_person_stopped_is_replaced_only_on_request(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    while not finals_of(bench):
        bench.ticks()
    ask(bench, "stop", trial=finals_of(bench)[-1].id)
    finish(bench)
    assert len(finals_of(bench)) == 6
    assert len(ask(bench, "finals", experiment=1).data["trials"]) == 1


def test_stopping_the_experiment_calls_its_finals_off(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    bench.ticks(3)
    assert ask(bench, "stop-experiment", experiment=1).ok
    finish(bench)
    assert finals_of(bench) == []


def test_an_experiment_that_is_held_begins_no_finals_and_has_not_ended(
    bench_of: MakeBench,
) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=grid(), train=TRAIN))
    while any(not t.state.final for t in swept(bench) if t.id != 5):
        bench.ticks()
    bench.until(State.RUNNING, 5)
    drop_request(bench.context.home.requests, "hold", {"experiment": 1})
    bench.until(State.DONE, 5)
    bench.ticks(5)
    assert finals_of(bench) == []
    assert bench.store.experiment(1).ended_utc is None
    drop_request(bench.context.home.requests, "release", {"experiment": 1})
    finish(bench)
    assert len(finals_of(bench)) == 6


# --- a loop that is killed ---


@pytest.mark.parametrize("point", ["propose_finals.before_commit", "propose_finals.after_commit"])
def test_a_loop_killed_while_it_begins_finals_begins_them_once(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("whole", "killed"):
        bench = make_bench(tmp_path / name, [cpu_card(0)])
        bench.submit(recipe(sweep=grid(), train=TRAIN))
        if name == "killed":
            monkeypatch.setenv(fault_points.VARIABLE, f"{point}=raise")
            with pytest.raises(fault_points.InjectedFault):
                finish(bench)
            monkeypatch.delenv(fault_points.VARIABLE)
            assert len(finals_of(bench)) == (6 if point.endswith("after_commit") else 0)
            bench.context.fleet.close()
            requeue_all(bench.context, "the engine was restarted")
        finish(bench)
        found.append([(t.number, t.finals_of, t.settings) for t in finals_of(bench)])
        bench.context.fleet.close()
        bench.store.close()
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_seeds_follow_from_the_seed_of_the_sweep(tmp_path: Path) -> None:
    found = []
    for name, seed in (("one", 0), ("same", 0), ("other", 7)):
        bench = make_bench(tmp_path / name, [cpu_card(0)])
        bench.submit(recipe(sweep=grid(seed=seed), train=TRAIN))
        finish(bench)
        found.append([t.settings["train.seed"] for t in finals_of(bench)])
        bench.context.fleet.close()
        bench.store.close()
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])
