"""Listings: what they print, and the shape of their JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.conftest import Workbench
from tests.support.tick_contexts import Bench, recipe
from workbench.service import Service
from workbench.store import results
from workbench.store.requests import drop_request
from workbench.trial import DesiredState, Kind, State

SWEEP = {"parameters": {"train.learning_rate": [0.01, 0.1]}}
BOARD_KEYS = {
    "trial",
    "state",
    "score",
    "base_score",
    "settings",
    "adapter",
    "tokens_per_s",
    "peak_bytes",
    "wall_s",
}
HOSTILE = "\x1b]0;gone\x07\x1b[2J\u202eevil\x9b31m"


def _trained(bench: Bench) -> None:
    """Experiment 1: the base (trial 1), and trials 2 and 3, done."""
    bench.submit(recipe(sweep=SWEEP))
    for trial in (2, 3, 1):
        bench.until(State.DONE, trial)


def test_a_home_where_nothing_ran_lists_nothing(workbench: Workbench) -> None:
    said = workbench("ls")
    assert (said.code, said.out) == (0, "")
    assert "workbench demo" in said.err
    assert workbench("ls", "--json").data == []


def test_a_folder_that_does_not_exist_is_named(
    workbench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "unmounted"))
    said = workbench("ls")
    assert said.code == 0
    for words in (said.err, workbench("board").err, workbench("show", "1").err):
        assert f"there is no folder {tmp_path}/unmounted" in " ".join(words.split())
        assert "WORKBENCH_HOME" in words


def test_ls_shows_experiments_and_trials(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    said = workbench("ls")
    assert said.code == 0
    assert "2 done" in said.out
    assert " learning_rate=0.1" in said.out
    assert "the base" not in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines())


def test_ls_counts_the_ended_trials_of_finals(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep={**SWEEP, "max_parallel": 1, "finals": {"top": 1, "seeds": 2}}))
    bench.until(State.DONE, 2)
    assert "finals" not in workbench("ls").out
    while bench.store.experiment(1).ended_utc is None:
        bench.ticks()
    assert "tiny, by exact_match; finals 2 of 2" in workbench("ls").out


def test_ls_all_shows_the_base_too(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    assert "the base" in workbench("ls", "--all").out


def test_ls_json_holds_experiments_with_their_trials(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    (one,) = workbench("ls", "tiny", "--json").data
    assert (one["name"], one["state"], one["counts"]) == ("tiny", "ready", {"done": 2})
    assert [trial["id"] for trial in one["trials"]] == [2, 3]
    assert list(one) == sorted(one)


def test_an_unknown_experiment_names_those_there_are(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    said = workbench("ls", "huge")
    assert (said.code, said.out) == (3, "")
    assert "error: there is no experiment huge" in said.err
    assert "→ there are: tiny" in said.err


def test_board_json_is_ranked_and_leaves_the_base_out(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    rows = workbench("board", "--json").data
    assert [row["trial"] for row in rows] == [3, 2]
    assert set(rows[0]) >= BOARD_KEYS
    assert rows[0]["base_score"] == 0.1
    assert rows[0]["settings"] == {"train.learning_rate": 0.1}


def test_board_shows_the_base_below_what_was_trained(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    said = workbench("board", "1")
    assert said.code == 0
    assert said.out.splitlines()[0] == "tiny, by exact_match (higher is better)"
    table = said.out.splitlines()[1:5]
    assert table[-1].endswith("the base, untrained")
    assert all(len(line) <= 80 for line in table)


def test_a_board_of_nothing_is_exit_code_three(workbench: Workbench) -> None:
    said = workbench("board", "--json")
    assert (said.code, said.out) == (3, "")


def test_show_tells_moves_attempts_scores_and_samples(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    results.put_sample(
        bench.store,
        3,
        3,
        1,
        {"question": "1+1?", "expected": "2", "answer": "#### 2", "right": True},
    )
    said = workbench("show", "3")
    assert said.code == 0
    for words in ("trial 3 of tiny: done", "queued", "starting", "plan of", "exact_match 0.600"):
        assert words in said.out
    assert "sample, right" in said.out


def test_show_names_a_request_only_until_it_is_done(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe())
    bench.until(State.RUNNING, 2)
    bench.store.set_desired_state(2, DesiredState.PAUSE)
    pending = "pause, requested, not done yet"
    assert pending in workbench("show", "2").out
    bench.until(State.PAUSED, 2)
    assert pending not in workbench("show", "2").out
    bench.store.set_desired_state(2, DesiredState.RUN)
    assert "run, requested, not done yet" in workbench("show", "2").out


def test_show_json_holds_everything(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    data = workbench("show", "3", "--json").data
    assert data["trial"]["state"] == "done"
    assert [move["after"] for move in data["moves"]] == ["starting", "running", "done"]
    assert data["attempts"][0]["plan"]["precision"] == "fp32"
    assert data["board"]["rank"] == 1


def test_an_unknown_trial_is_exit_code_three(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    for command in ("show", "logs", "stop", "merge"):
        more = ["-o", "/nowhere"] if command == "merge" else []
        said = workbench(command, "99", *more)
        assert (said.code, said.out) == (3, "")
        assert "error: there is no trial 99\n  → trials go from 1 to 3" in said.err


def test_logs_prints_the_newest_lines(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    for n in range(5):
        bench.store.note("log", f"line {n}", trial=2)
    said = workbench("logs", "2", "-n", "2")
    assert [line.split("  ")[1] for line in said.out.splitlines()] == ["line 3", "line 4"]


def test_logs_shows_losses_and_hides_kernel_facts(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    bench.store.note("log", "no graphs: no CUDA card", level="debug", trial=2)
    plain, debug = workbench("logs", "2"), workbench("logs", "2", "--debug")
    assert "loss" in plain.out
    assert "no graphs" not in plain.out
    assert "no graphs" in debug.out


def test_logs_as_json_is_one_object_a_line(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    bench.store.note("log", "one line", trial=2)
    lines = workbench("logs", "2", "--json", "-n", "1").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one line"]


def test_a_metric_is_printed_by_step(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    table = workbench("show", "2", "--series", "loss", "--csv").out.splitlines()
    assert table[0] == "step,loss"
    rows = workbench("show", "2", "--series", "loss", "--json").data
    assert [f"{row['step']},{row['loss']!r}" for row in rows] == table[1:]
    assert table[1:]


def test_an_unknown_metric_names_those_there_are(bench: Bench, workbench: Workbench) -> None:
    _trained(bench)
    said = workbench("show", "2", "--series", "los")
    assert said.code == 3
    assert "loss" in said.err


def test_the_time_left_is_what_the_worker_estimates(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(train={"max_steps": 900, "learning_rate": 0.1}))
    bench.until(State.RUNNING, 2)
    bench.ticks(2)
    row = bench.store.trial(2)
    assert row.ends_utc is not None
    assert row.seconds_left(row.ends_utc - 700) == 700
    assert row.seconds_left(row.ends_utc + 1) == 0
    assert replace(row, state=State.PAUSED).seconds_left(0.0) is None
    assert replace(row, ends_utc=None).seconds_left(0.0) is None
    assert "~14 min" in workbench("ls").out
    assert "~14 min left" in workbench("show", "2").out


def test_hostile_text_is_inert_wherever_it_is_printed(bench: Bench, workbench: Workbench) -> None:
    wild = recipe(name="x").model_copy(update={"name": HOSTILE})
    bench.store.add_experiment(wild.model_dump(mode="json"), "loss")
    trial = bench.store.add_trial(1, 1, Kind.TUNE, {"lora.rank": HOSTILE})
    bench.store.mark_ready(1, {}, {}, None)
    bench.store.db.execute("update trials set waiting = ?, reason = ?", (HOSTILE, HOSTILE))
    bench.store.db.execute(
        "insert into events values (9, 0, 1, 1, null, 'log', 'error', ?)", (HOSTILE,)
    )
    for command in (["ls", "--all"], ["show", str(trial)], ["logs", "1"], ["board"]):
        said = workbench(*command)
        assert said.code == 0
        assert "evil" in said.out
        for bad in "\x1b\x07\x9b\u202e":
            assert bad not in said.out + said.err
    for command in (["ls"], ["show", "1"], ["board"]):
        assert not set("\x1b\x07\x9b\u202e") & set(workbench(*command, "--json").out)


def test_cards_lists_what_the_engine_saw(bench: Bench, workbench: Workbench) -> None:
    rows = workbench("cards", "--json").data
    assert [row["uuid"] for row in rows] == ["cpu-0", "cpu-1"]
    assert "24.0 GiB" in workbench("cards").out


def test_ls_tells_the_place_of_what_waits(bench: Bench, workbench: Workbench) -> None:
    seeds = {"parameters": {"train.seed": [1, 2, 3, 4, 5]}}
    bench.submit(recipe(sweep=seeds, evaluate={}))
    bench.until(State.RUNNING, 3)  # on the card that has scored the base; 2 runs on the other
    bench.store.to_front(6)
    lines = workbench("ls").out.splitlines()
    told = {line.split()[0]: line for line in lines if "queued, " in line}
    assert "queued, 1st" in told["6"]
    assert "queued, 2nd" in told["4"]
    (one,) = workbench("ls", "--json").data
    assert {t["id"]: t["place"] for t in one["trials"]} == {2: None, 3: None, 6: 1, 4: 2, 5: 3}


def test_ls_shows_a_base_that_waits_so_that_no_place_is_missing(
    bench: Bench, workbench: Workbench
) -> None:
    bench.store.set_fact("held", "1")
    bench.submit(recipe())
    bench.ticks(2)
    out = workbench("ls").out
    assert all(words in out for words in ("queued, 1st", "queued, 2nd", "the base", " 1 queued "))
    (one,) = workbench("ls", "--json").data
    assert [t["kind"] for t in one["trials"]] == ["tune"]


def test_stopped_and_killed_trials_are_counted_apart(bench: Bench, workbench: Workbench) -> None:
    bench.submit(recipe(sweep={"parameters": {"train.seed": [1, 2, 3]}}))
    bench.ticks(2)
    for verb, trial in (("kill", 2), ("stop", 3), ("kill", 4)):
        drop_request(bench.context.home.requests, verb, {"trial": trial})
    bench.ticks(40)
    said = workbench("ls")
    assert "1 stopped, 2 killed" in said.out
    (one,) = workbench("ls", "--json").data
    assert (one["counts"], one["killed"]) == ({"stopped": 3}, 2)
    assert "1 stopped, 2 killed" in workbench("engine", "status").out
    assert "1 stopped, 2 killed" in workbench("watch").out
    states = [line.split()[2] for line in workbench("board").out.splitlines()[2:5]]
    assert sorted(states) == ["killed", "killed", "stopped"]


@pytest.mark.parametrize("fact", ["held", "stopping", "disk-low"])
def test_who_follows_waits_for_a_person(fact: str, bench: Bench) -> None:
    """Whoever watches goes on: the engine does by itself, once the disk has room again."""
    service = Service(bench.context.home)
    assert not service.waits_for_a_person()
    bench.store.set_fact(fact, "why")
    assert service.waits_for_a_person()
    service.close()
