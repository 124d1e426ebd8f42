"""Sweeps that ask for trials as cards become free, and trials that end before their time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import Bench, cpu_card, make_bench, recipe
from workbench.scheduler.recover import requeue_all
from workbench.service import Service
from workbench.store import card_table
from workbench.store.board import rank_adapters
from workbench.store.requests import drop_request
from workbench.trial import State

MakeBench = Callable[..., Bench]
RATE = {"train.learning_rate": {"min": 0.001, "max": 0.3, "log": True}}
LONG = {"max_steps": 900, "save_every": 100}


def sweep(method: str = "tpe", **more: Any) -> dict[str, Any]:
    return {"method": method, "parameters": RATE, **more}


def tuned(bench: Bench) -> list[Any]:
    return [t for t in bench.trials() if t.kind == "tune"]


def settings(bench: Bench) -> list[dict[str, Any]]:
    return [t.settings for t in tuned(bench)]


def test_a_tpe_sweep_runs_its_trials_to_a_ranked_board(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=sweep(trials=14)))
    bench.ticks(140)
    assert [t.state for t in tuned(bench)] == [State.DONE] * 14
    assert [t.number for t in tuned(bench)] == list(range(1, 15))
    assert not bench.store.experiment(id).searching
    rows = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
    assert rows[0].score is not None
    assert rows[0].score > 0.9  # of rates from 0.001 on, those above 0.15 reach this


def test_the_board_ranks_by_what_the_search_goes_by(bench_of: MakeBench) -> None:
    bench = bench_of()
    grid = {"objective": "perplexity", "parameters": {"train.learning_rate": [0.1, 0.01, 0.05]}}
    id = bench.submit(recipe(sweep=grid))
    bench.ticks(40)
    rows = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
    assert [row.trial for row in rows] == [2, 4, 3, 1]  # the lowest perplexity first
    assert rows[0].score == pytest.approx(math.exp(0.4))
    assert rows[0].gain == pytest.approx(math.exp(0.9) - math.exp(0.4))


def test_trials_are_asked_for_as_cards_become_free_and_not_before(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(3)])
    bench.submit(recipe(sweep=sweep(trials=14), train=LONG))
    bench.ticks(12)
    assert [t.state for t in tuned(bench)] == [State.RUNNING] * 3


def test_a_straggler_keeps_nobody_waiting(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=sweep(trials=8)))
    bench.ticks(4)
    first = next(t for t in tuned(bench) if t.state.live)
    observe = bench.context.fleet.observe
    stuck = first.card

    def all_but_one() -> dict[str, Any]:
        return {card: report for card, report in observe().items() if card != stuck}

    bench.context.fleet.observe = all_but_one  # type: ignore[method-assign]
    bench.ticks(90)
    assert len([t for t in tuned(bench) if t.state is State.DONE]) >= 5


def test_a_clone_uses_up_none_of_the_sweeps_own_trials(bench_of: MakeBench) -> None:
    bench = bench_of()
    bench.submit(recipe(sweep=sweep(trials=4)))
    bench.ticks(4)
    first = tuned(bench)[0]
    request = {"trial": first.id, "settings": {"lora.rank": 2}}
    drop_request(bench.context.home.requests, "clone", request)
    bench.ticks(120)
    assert [t.state for t in tuned(bench)] == [State.DONE] * 5
    assert sum("lora.rank" in t.settings for t in tuned(bench)) == 1


def test_max_parallel_bounds_what_is_asked_for(bench_of: MakeBench) -> None:
    bench = bench_of(*[cpu_card(i) for i in range(4)])
    bench.submit(recipe(sweep=sweep(trials=14, max_parallel=2), train=LONG))
    bench.ticks(12)
    assert len(tuned(bench)) == 2


def test_where_no_card_is_free_one_trial_stands_in_the_queue_and_says_why(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    card_table.set_quarantine(bench.store, "cpu-0", "it lost two trials")
    bench.submit(recipe(sweep=sweep(trials=14)))
    bench.ticks(5)
    [waiting] = tuned(bench)
    assert "quarantined" in waiting.waiting


def test_a_restart_changes_no_proposal(tmp_path: Path) -> None:
    """The same trials end in the same order; one engine is killed and begun anew on the way."""
    found = []
    for name, restarts in (("one", ()), ("other", (25, 60))):
        bench = make_bench(tmp_path / name, [cpu_card(0)])
        bench.submit(recipe(sweep=sweep(trials=12)))
        for tick in range(180):
            if tick in restarts:
                bench.context.fleet.close()
                bench.context.early_stops.clear()
                requeue_all(bench.context, "the engine was restarted")
            bench.ticks(1)
        found.append(settings(bench))
        assert {t.state for t in bench.trials()} == {State.DONE}
        bench.context.fleet.close()
        bench.store.close()
    assert found[0] == found[1]
    assert len(found[0]) == 12


ASK = """
import json, sys
from pathlib import Path
from workbench import search
from workbench.recipe import Recipe
from workbench.scheduler.sweeps import as_past_trial
from workbench.store import Reader
from workbench.store.queries.history import read_past
reader = Reader.open(Path(sys.argv[1]))
recipe = Recipe.model_validate_json(json.dumps(reader.experiment(1).recipe))
history = [as_past_trial(one) for one in read_past(reader, 1, recipe.objective[0])]
known = [history[:2], history]
print(json.dumps([search.next_point(recipe, len(one) + 1, one) for one in known]))
"""


def test_another_process_asks_the_store_and_gets_the_same_trials(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(recipe(sweep=sweep(trials=12)))
    while [t.state for t in tuned(bench)] != [*[State.DONE] * 8, State.RUNNING]:
        bench.ticks(1)
    drop_request(bench.context.home.requests, "hold", {"experiment": 1})
    bench.until(State.DONE, 10)
    child = subprocess.run(
        [sys.executable, "-c", ASK, str(bench.context.home.database)],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    drop_request(bench.context.home.requests, "release", {"experiment": 1})
    bench.ticks(2)
    assert len(settings(bench)) == 10
    assert [settings(bench)[2], settings(bench)[9]] == json.loads(child.stdout)


def test_a_small_space_ends_its_sweep(bench_of: MakeBench) -> None:
    bench = bench_of()
    small = {"method": "tpe", "hours": 9, "parameters": {"lora.rank": [4, 8, 16]}}
    id = bench.submit(recipe(sweep=small))
    bench.ticks(60)
    assert sorted(s["lora.rank"] for s in settings(bench)) == [4, 8, 16]
    assert not bench.store.experiment(id).searching


def test_hours_end_a_sweep_and_what_runs_goes_on(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    id = bench.submit(recipe(sweep=sweep("random", hours=0.01)))
    bench.ticks(36 + 20)
    assert not bench.store.experiment(id).searching
    assert 3 <= len(tuned(bench)) <= 6
    assert {t.state for t in bench.trials()} == {State.DONE}


def test_card_hours_give_up_the_rest_of_a_grid(bench_of: MakeBench) -> None:
    bench = bench_of()
    grid = {"gpu_hours": 0.005, "parameters": {"train.seed": list(range(30))}}
    id = bench.submit(recipe(sweep=grid))
    bench.ticks(60)
    states = [t.state for t in tuned(bench)]
    assert set(states) == {State.DONE, State.PRUNED}
    assert 2 <= states.count(State.DONE) <= 5
    given_up = next(t for t in tuned(bench) if t.state is State.PRUNED)
    assert given_up.reason == "its budget of 0.005 card-hours is spent"
    assert given_up.attempts == 0
    assert not bench.store.experiment(id).searching


def test_a_sweep_with_time_left_ends_with_its_last_trial(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep={"hours": 9, "parameters": {"train.seed": [1, 2]}}))
    bench.ticks(30)
    assert {t.state for t in bench.trials()} == {State.DONE}
    assert not bench.store.experiment(id).searching


def test_a_sweep_whose_trials_all_fail_asks_for_no_more(bench_of: MakeBench) -> None:
    bench = bench_of()
    broken = {
        "method": "random",
        "hours": 9,
        "parameters": {"lora.rank": {"min": 1, "max": 10**6, "integer": True}},
    }
    id = bench.submit(recipe(sweep=broken, train={"learning_rate": 0.666}))
    bench.ticks(60)
    assert 5 <= len(tuned(bench)) <= 8
    assert not bench.store.experiment(id).searching
    told = [e.text for e in bench.store.events() if e.kind == "search"]
    assert "last 5 trials failed" in told[-1]


# --- trials that end before their time


def rates(*values: float, **early_stop: Any) -> dict[str, Any]:
    """A grid over learning rates; the ticking worker's held-out loss is lower for higher ones."""
    return {"parameters": {"train.learning_rate": list(values)}, "early_stop": early_stop}


def until_judged(bench: Bench, trial: int) -> None:
    for _ in range(50):
        if bench.store.trial(trial).pruned:
            return
        bench.ticks(1)
    raise AssertionError(f"trial {trial} was not judged")


EVERY_TWO = {"answer_pattern": "####", "every": 2}


def test_halving_lets_the_best_go_on_and_the_rest_keep_their_adapters(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    falling = [0.09, 0.08, 0.07, 0.06, 0.05, 0.04]
    id = bench.submit(
        recipe(
            sweep=rates(*falling, method="asha", from_step=2),
            evaluate=EVERY_TWO,
            train={"max_steps": 12, "save_every": 3, "log_every": 1},
        )
    )
    bench.ticks(80)
    best, *others = tuned(bench)
    assert best.state is State.DONE
    assert {t.state for t in others} == {State.PRUNED}
    assert all(t.step < 6 for t in others)
    assert others[0].reason.startswith("asha: rung 1 (step 2), held-out loss 0.96 is not among")
    rows = rank_adapters(bench.store, bench.store.experiment(id), bench.now)
    assert rows[0].trial == best.id
    assert [row.rank for row in rows[:6]] == [1, 2, 3, 4, 5, 6]
    assert all(row.adapter for row in rows[:6])


def test_the_first_rung_is_at_a_third_of_a_trial_where_none_is_named(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.09, 0.01, method="asha"),
            evaluate=EVERY_TWO,
            train={"max_steps": 20, "save_every": 3, "log_every": 1},
        )
    )
    row = bench.until(State.PRUNED, 3)
    assert "rung 1 (step 6)" in row.reason


def test_each_rung_is_judged_once_wherever_the_engine_is_killed(bench_of: MakeBench) -> None:
    """A trial that went on is not ended by a better one that comes to the same rung later."""
    bench = bench_of(cpu_card(0), cpu_card(1))
    bench.submit(
        recipe(
            sweep={**rates(0.01, 0.09, method="asha", from_step=4), "max_parallel": 1},
            evaluate={**EVERY_TWO, "every": 4},
            train={"max_steps": 9, "save_every": 2, "log_every": 1},
        )
    )
    bench.until(State.RUNNING, 2)
    bench.ticks(5)
    assert 4 <= bench.store.trial(2).step < 9
    assert bench.store.trial(3).step == 0
    with bench.store.writing():
        bench.store.db.execute("update experiments set max_parallel = 2")
    bench.context.fleet.close()
    requeue_all(bench.context, "the engine was restarted")
    bench.ticks(60)
    assert [t.state for t in tuned(bench)] == [State.DONE, State.DONE]


def test_a_trial_lost_after_it_was_judged_is_scored_from_its_checkpoint(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.09, 0.01, method="threshold", above=0.3, from_step=4),
            evaluate=EVERY_TWO,
            train={"max_steps": 50, "save_every": 3, "log_every": 1},
        )
    )
    bench.until(State.RUNNING, 2)
    until_judged(bench, 2)
    bench.context.fleet.end("cpu-0", "killed by signal 9")
    row = bench.until(State.PRUNED, 2)
    assert row.score is not None
    assert row.attempts == 2


def test_a_judged_trial_that_lost_its_card_before_any_checkpoint_ends_at_once(
    bench_of: MakeBench,
) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.09, method="threshold", above=0.5),
            evaluate=EVERY_TWO,
            train={"max_steps": 50, "save_every": 40, "log_every": 1},
        )
    )
    bench.until(State.RUNNING, 2)
    until_judged(bench, 2)
    bench.context.fleet.end("cpu-0", "killed by signal 9")
    row = bench.until(State.PRUNED, 2)
    assert (row.score, row.attempts) == (None, 1)
    assert "above 0.5" in row.reason


def test_patience_says_what_it_waited_for(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.01, method="patience", evaluations=1, improvement=9.0),
            evaluate=EVERY_TWO,
            train={"max_steps": 50, "save_every": 1, "log_every": 1},
        )
    )
    row = bench.until(State.PRUNED, 2)
    assert "; 1 evaluation in a row not lower by more than 9 than the best before" in row.reason


def test_a_person_comes_before_the_early_stopper(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.09, method="threshold", above=0.5),
            evaluate=EVERY_TWO,
            train={"max_steps": 50, "save_every": 1, "log_every": 1},
        )
    )
    bench.until(State.RUNNING, 2)
    drop_request(bench.context.home.requests, "pause", {"trial": 2})
    assert bench.until(State.PAUSED, 2).pruned
    drop_request(bench.context.home.requests, "resume", {"trial": 2})
    assert bench.until(State.PRUNED, 2).score is not None


def test_the_median_ends_what_is_behind_half_of_the_finished(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.05, 0.06, 0.07, 0.01, 0.2, method="median", trials=3),
            evaluate=EVERY_TWO,
        )
    )
    bench.ticks(60)
    states = [t.state for t in tuned(bench)]
    assert states == [*[State.DONE] * 3, State.PRUNED, State.DONE]
    assert "behind half of the 3 finished" in tuned(bench)[3].reason


def test_patience_ends_what_gets_no_better(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(
            sweep=rates(0.05, method="patience", evaluations=2, improvement=0.4),
            evaluate=EVERY_TWO,
            train={"max_steps": 40, "save_every": 10, "log_every": 1},
        )
    )
    row = bench.until(State.PRUNED, 2)
    assert row.reason.startswith("patience: at step 8")


def test_nothing_is_ended_at_its_last_step(bench_of: MakeBench) -> None:
    bench = bench_of(cpu_card(0))
    bench.submit(
        recipe(sweep=rates(0.05, method="threshold", above=0.01, from_step=6), evaluate=EVERY_TWO)
    )
    assert bench.until(State.DONE, 2).step == 6


@pytest.mark.parametrize("kept", [True, False])
def test_a_diverged_trial_keeps_what_it_has(bench_of: MakeBench, kept: bool) -> None:
    bench = bench_of(cpu_card(0))
    save = 1 if kept else 40
    bench.submit(
        recipe(train={"max_steps": 50, "save_every": save, "log_every": 1, "learning_rate": 0.777})
    )
    row = bench.until(State.PRUNED if kept else State.FAILED, 2)
    assert "became NaN" in row.reason
    assert row.hint
    assert (row.score is not None) is kept


def test_a_sweep_reports_which_of_its_settings_mattered(bench_of: MakeBench) -> None:
    bench = bench_of()
    grid = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1, 0.15], "lora.rank": [4, 8]}}
    id = bench.submit(recipe(sweep=grid))
    service = Service(bench.context.home)
    bench.ticks(2)
    early = service.importance(id)
    assert not early.enough
    assert early.trials + sum(early.left_out.values()) == 8
    bench.ticks(70)
    report = service.importance(id)
    assert (report.trials, report.enough) == (8, True)
    assert report.left_out == {}
    assert report.settings[0].key == "train.learning_rate"
    assert report.settings[0].best == "0.15"
