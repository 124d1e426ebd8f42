"""Following an experiment in plain lines, and the demo."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.cli.engines import Engine, recipe_file
from tests.support.tick_contexts import Bench, recipe
from workbench.cli.recipes.demo import need_all_done
from workbench.cli.trials.follow import Narrator, find_followed, last_move_to_queue
from workbench.errors import WorkbenchError
from workbench.home import Home
from workbench.service import Service
from workbench.store.requests import drop_request
from workbench.trial import Kind, State


def test_watch_tells_the_way_on_stderr_and_the_board_on_stdout(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("run", recipe_file(tmp_path), "--watch")
    assert said.code == 0
    assert "trial 2  done  score 0.600" in said.err
    assert "trial 1 (the base)  done  score 0.100" in said.err
    assert "tiny, by exact_match" in said.out
    assert said.out.splitlines()[-1].startswith("trial 2 is the only one with a score")


def test_watch_json_prints_the_board_and_nothing_else(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("run", recipe_file(tmp_path), "--watch", "--json")
    assert said.data["experiment"] == 1
    assert [row["trial"] for row in said.data["board"]] == [2]
    assert said.data["verdict"].startswith("trial 2 is the only one with a score")


def test_watch_ends_with_one_when_a_trial_fails(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("run", recipe_file(tmp_path), "-s", "train.learning_rate=0.666", "-w")
    assert said.code == 1
    assert "the loss is NaN  → lower train.learning_rate" in said.err
    assert "trial 2: failed: the loss is NaN" in said.out


def test_run_and_watch_tell_which_card_is_left_out(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    assert workbench("drain", "cpu-1").code == 0
    left_out = "1 of 2 cards used: cpu-1 is drained"
    assert left_out in workbench("run", recipe_file(tmp_path, name="first")).out
    longer = ("-s", "train.max_steps=60", "--watch")
    assert workbench("run", recipe_file(tmp_path), *longer).err.count(left_out) == 1


def test_watch_tells_why_an_experiment_was_refused(
    engine: Engine, workbench: Workbench, tmp_path: Path
) -> None:
    said = workbench("run", recipe_file(tmp_path, name="refused"), "-w")
    assert said.code == 1
    assert "error: refused was refused: no rows in train\n  → name a file" in said.err
    assert "no rows in train\n  → name a file with rows" in workbench("ls").out


def test_the_demo_prints_its_board_as_json_and_nothing_else(
    engine: Engine, workbench: Workbench
) -> None:
    said = workbench("demo", "--json")
    assert said.code == 0
    assert len(said.data) == 6
    assert all(row["state"] == "done" and row["score"] is not None for row in said.data)
    assert "6 trials of a 1M-parameter model" in said.err
    assert "workbench merge" in said.err


def test_the_demo_prints_its_board_for_people(engine: Engine, workbench: Workbench) -> None:
    said = workbench("demo")
    assert said.code == 0
    assert said.out.splitlines()[0].startswith("demo, by exact_match")
    assert "its adapter lies in" in said.err


def test_the_demo_fails_with_what_failed_and_its_mend(
    engine: Engine, workbench: Workbench, home: Home, tmp_path: Path
) -> None:
    workbench("run", recipe_file(tmp_path), "-s", "train.learning_rate=0.666", "-w")
    service = Service(home)
    with pytest.raises(WorkbenchError, match="trial 2 is failed: the loss is NaN") as failed:
        need_all_done(service, service.board(1)[1])
    assert failed.value.hint == "lower train.learning_rate"


def test_each_fact_is_printed_once(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    row = bench.store.trial(2)
    narrator = Narrator(clock=lambda: 100.0)
    first = [line for line, _ in narrator.news([row])]
    assert "trial 2  running  on cpu-" in first[0]
    assert list(narrator.news([row])) == []
    moved = dataclasses.replace(
        row, step=50, total_steps=100, loss=1.5, tokens_per_s=1234.0, ends_utc=160.0
    )
    ((line, about),) = narrator.news([moved])
    assert about == moved
    assert line.endswith("trial 2  step 50/100  loss 1.5  1,234 tokens/s  ~1 min left")
    assert list(narrator.news([dataclasses.replace(moved, step=60)])) == []


def test_a_trial_that_goes_back_to_the_queue_is_shown_with_its_reason(
    bench: Bench, home: Home
) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    service = Service(home)
    narrator = Narrator(
        clock=lambda: 100.0, why_requeued=lambda trial: last_move_to_queue(service, trial)
    )
    assert len(list(narrator.news([bench.store.trial(2)]))) == 1
    why = "the worker was lost; goes on from step 700"
    bench.store.move(2, State.RUNNING, State.QUEUED, by="recover", why=why)
    ((line, _),) = narrator.news([bench.store.trial(2)])
    assert line.endswith(f"trial 2  queued  {why}")


def test_a_stopped_trial_is_said_to_be_stopped_once(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    drop_request(bench.context.home.requests, "stop", {"trial": 2})
    bench.until(State.STOPPED, 2)
    why = bench.store.trial(2).reason
    assert why == "stopped before its first checkpoint"
    ((line, _),) = Narrator(clock=lambda: 0.0).news([bench.store.trial(2)])
    assert line.endswith(f"trial 2  {why}")
    assert f"\ntrial 2: {why}\n" in workbench("ls").out


def test_a_chat_is_neither_followed_nor_waited_for(bench: Bench, home: Home) -> None:
    bench.submit(recipe())
    bench.context.add_trial(1, Kind.CHAT, {"score.models": [2]})
    snapshot = Service(home).snapshot()
    assert [trial.kind for trial in find_followed(snapshot, 1)[1]] == [Kind.BASE, Kind.TUNE]
    assert Kind.CHAT in {trial.kind for trial in snapshot.trials}


def test_of_a_resumed_trial_nothing_is_told_before_it_has_numbers(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    row = dataclasses.replace(bench.store.trial(2), step=175, total_steps=400, loss=None)
    ((line, _),) = Narrator(clock=lambda: 0.0).news([row])
    assert "running" in line


def test_lines_about_a_running_trial_become_rarer(bench: Bench) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    row = dataclasses.replace(bench.store.trial(2), step=1, total_steps=1000, loss=2.0)
    now = [0.0]
    narrator = Narrator(clock=lambda: now[0])
    assert len(list(narrator.news([row]))) == 1
    now[0] = 10.0
    assert len(list(narrator.news([row]))) == 1
    now[0] = 20.0
    assert list(narrator.news([row])) == []
    now[0] = 30.0
    assert len(list(narrator.news([row]))) == 1


def test_what_the_queue_waits_for_is_printed_once(bench: Bench) -> None:
    bench.submit(recipe())
    row = dataclasses.replace(bench.store.trial(2), waiting="no card is free")
    now = [0.0]
    narrator = Narrator(clock=lambda: now[0])
    assert list(narrator.news([row])) == []
    now[0] = 5.0
    ((line, about),) = narrator.news([row])
    assert about is None
    assert line.endswith("nothing runs now: no card is free")
    now[0] = 50.0
    assert list(narrator.news([row])) == []
