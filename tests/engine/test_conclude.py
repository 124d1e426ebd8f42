"""The end of an experiment is reported once: as an event, and by the notification command."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tick_contexts import Bench, cpu_card, recipe
from tests.support.waiting import wait_for
from workbench.errors import RecipeError
from workbench.home import Home
from workbench.notification import add_verdict
from workbench.recipe import read_recipe
from workbench.scheduler import conclude, process_requests
from workbench.scheduler.children.notifier import Notifier
from workbench.store.requests import drop_request
from workbench.trial import State
from workbench.user_config import ConfigWatch

MakeBench = Callable[..., Bench]
GRID = {"parameters": {"train.learning_rate": [0.01, 0.05, 0.1]}}


def ended(bench: Bench) -> list[str]:
    return [event.text for event in bench.store.events() if event.kind == "ended"]


def finish(bench: Bench, experiment: int) -> None:
    for _ in range(200):
        if bench.store.experiment(experiment).ended_utc:
            return
        bench.ticks()
    raise AssertionError("it never ended")


def keeper_of(folder: Path) -> list[str]:
    """A command that keeps what it reads, one file a call."""
    return ["sh", "-c", f"cat > {shlex.quote(str(folder))}/$$"]


def with_command(bench: Bench, command: list[str] | None, limit_s: float = 60.0) -> None:
    bench.context.notifier = Notifier(bench.context.home, lambda: command, limit_s)


def settled(bench: Bench) -> None:
    """Wait until every command has ended."""
    assert bench.context.notifier is not None
    running = bench.context.notifier._running
    wait_for(lambda: all(child.poll() is not None for _, child in running), "its end")


def test_an_end_is_reported_once_with_its_best_trial(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe(sweep=GRID))
    finish(bench, id)
    bench.ticks(5)
    assert ended(bench) == [
        "experiment tiny has ended: 3 done; best trial 4, exact_match 0.600",
    ]


def test_the_command_reads_the_board_once_also_across_restarts(
    bench_of: MakeBench, tmp_path: Path
) -> None:
    bench, kept = bench_of(), tmp_path / "kept"
    kept.mkdir()
    with_command(bench, keeper_of(kept))
    id = bench.submit(recipe(sweep=GRID))
    finish(bench, id)
    settled(bench)
    with_command(bench, keeper_of(kept))  # another engine
    bench.ticks(3)
    settled(bench)
    [file] = kept.iterdir()
    told = json.loads(file.read_text())
    assert told["name"] == "tiny"
    assert told["counts"] == {"done": 3}
    assert [row["trial"] for row in told["board"] if row["rank"]] == [4, 3, 2]
    assert told["verdict"].startswith("trial 4 is best: exact match 0.60 [0.39, 0.78]")
    assert told["text"] == f"experiment tiny has ended: 3 done; {told['verdict']}"
    assert told["board"][1]["vs_leader"].keys() == {"difference", "low", "high", "p"}


def test_a_verdict_that_cannot_be_had_costs_no_notification(tmp_path: Path) -> None:
    data = {"experiment": 1, "state": "ready", "text": "experiment tiny has ended: 3 done"}
    told = add_verdict(Home(tmp_path), data)
    assert told["text"] == data["text"]
    assert told["verdict"] == ""
    assert "nothing has run" in told["verdict_error"]


def test_a_tick_does_not_import_the_statistics(tmp_path: Path) -> None:
    code = "import sys, workbench.scheduler; print('workbench.verdict' in str(sorted(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_trials_added_later_make_another_end(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe())
    finish(bench, id)
    drop_request(bench.context.home.requests, "clone", {"trial": 2, "settings": {"train.seed": 1}})
    process_requests(bench.context)
    assert bench.store.experiment(id).ended_utc is None
    finish(bench, id)
    assert len(ended(bench)) == 2


def test_a_refused_experiment_has_ended_too(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
    bench.store.mark_refused(id, "no rows in train", "name a file with rows")
    conclude(bench.context)
    conclude(bench.context)
    assert ended(bench) == ["experiment tiny has ended: refused, no rows in train"]


def test_paused_and_held_trials_have_not_ended(bench_of: MakeBench) -> None:
    bench = bench_of()
    id = bench.submit(recipe())
    drop_request(bench.context.home.requests, "pause", {"trial": 2})
    bench.ticks(20)
    assert bench.store.trial(2).state is State.PAUSED
    assert bench.store.experiment(id).ended_utc is None


@pytest.mark.parametrize(
    "command",
    [
        ["/no/such/command"],
        ["sh", "-c", "exit 3"],
        ["bad\0name"],
    ],
)
def test_a_command_that_fails_is_reported_and_stops_nothing(
    bench_of: MakeBench, command: list[str]
) -> None:
    bench = bench_of()
    with_command(bench, command)
    finish(bench, bench.submit(recipe()))
    settled(bench)
    bench.ticks(1)
    [said] = [e for e in bench.store.events() if e.kind == "notify"]
    assert "notify.command failed for tiny" in said.text


def test_a_command_that_hangs_is_ended_and_holds_up_nobody(bench_of: MakeBench) -> None:
    bench = bench_of()
    with_command(bench, ["sleep", "infinity"], limit_s=0.3)
    finish(bench, bench.submit(recipe()))
    finish(bench, bench.submit(recipe()))
    settled(bench)
    assert "ended with 124" in (bench.context.home.logs / "notify.log").read_text()


def test_the_fifth_end_waits_for_a_command_to_end(bench_of: MakeBench, tmp_path: Path) -> None:
    bench, gate = bench_of(cpu_card(0)), tmp_path / "gate"
    os.mkfifo(gate)
    held = os.open(gate, os.O_RDWR)  # readers wait for a line or for the end of this
    with_command(bench, ["sh", "-c", f"read line < {shlex.quote(str(gate))}"])
    ids = []
    for _ in range(5):
        id = bench.store.add_experiment(recipe().model_dump(mode="json"), "loss")
        bench.store.mark_refused(id, "no", "")
        ids.append(id)
    conclude(bench.context)
    assert [bool(bench.store.experiment(id).ended_utc) for id in ids] == [True] * 4 + [False]
    os.write(held, b"\n" * 5)
    settled(bench)
    conclude(bench.context)
    settled(bench)
    assert bench.store.experiment(ids[4]).ended_utc
    os.close(held)


def test_the_notification_data_pass_no_shell(bench_of: MakeBench, tmp_path: Path) -> None:
    bench, kept = bench_of(), tmp_path / "kept"
    kept.mkdir()
    with_command(bench, [*keeper_of(kept), "$(touch", shlex.quote("; rm -rf"), "`id`"])
    finish(bench, bench.submit(recipe(name="$(touch pwned); `id`")))
    settled(bench)
    [file] = kept.iterdir()
    assert json.loads(file.read_text())["name"] == "$(touch pwned); `id`"
    assert sorted(os.listdir(tmp_path)) == ["home", "kept"]


@pytest.mark.parametrize(
    "lines",
    [
        "notify: {command: [evil]}",
        "wandb: {project: x}",
        "evaluate: {command: [evil]}",
        "train: {notify: {command: [x]}}",
    ],
)
def test_a_recipe_can_name_no_command(tmp_path: Path, lines: str) -> None:
    text = f"name: x\nmodel: {{name: workbench:demo/model}}\n{lines}\n"
    text += "data: {train: 'workbench:demo/data/train.jsonl'}\n"
    with pytest.raises(RecipeError, match="is not a setting"):
        read_recipe(text, folder=tmp_path)


def test_neither_can_a_request(bench_of: MakeBench) -> None:
    bench = bench_of()
    body = {**recipe().model_dump(mode="json"), "notify": {"command": ["evil"]}}
    id = drop_request(bench.context.home.requests, "submit", {"recipe": body})
    process_requests(bench.context)
    answer = bench.store.answer(id)
    assert answer is not None
    assert "not valid" in answer.text


def test_a_command_that_others_could_write_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[notify]\ncommand = ["true"]\n')
    for mode, command in ((0o600, ["true"]), (0o660, None), (0o606, None)):
        file.chmod(mode)
        assert ConfigWatch(file)().notify.command == command
