"""A cluster of three hosts: network namespaces on one machine, real Ray, the real trainer.

The hosts are made once for all tests here; each test leaves three boxes that are up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.clusters import LIMIT_S, Three, open_ports
from tests.support.namespaces import delayed, hosts, thin
from tests.support.waiting import wait_for
from tests.support.whole import short_recipe
from workbench.cluster import ray_commands
from workbench.cluster.settings import work_folder
from workbench.machine.locks import lock_holder
from workbench.machine.processes import program_name
from workbench.recipe import Recipe
from workbench.store.rows import TrialRow
from workbench.trial import State

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("cluster")
    with hosts(folder, 3) as made:
        cluster = Three(made, folder)
        cluster.head.run("cluster", "up", cluster.head.address)
        cluster.join(cluster.two, "two")
        cluster.join(cluster.three, "three")
        cluster.until_up("two", "three")
        yield cluster


@pytest.fixture(autouse=True)
def without_trials(three: Three) -> Iterator[None]:
    yield
    three.end_all()


def test_a_wrong_token_is_refused_and_leaves_nothing(three: Three, tmp_path: Path) -> None:
    three.three.run("cluster", "leave")
    wrong = tmp_path / "token"
    wrong.write_text("0" * 64)
    words = ("cluster", "join", three.head.address, "--name", "three")
    said = three.three.run(*words, "--token-file", str(wrong), ok=False)
    assert "the head refuses the token" in said
    assert three.three.pids() == []
    assert not three.three.home.token.exists()
    three.three.run(*words, typed=three.head.home.token.read_text() + "\n")
    three.until_up("three")


def test_a_box_is_added_over_ssh_and_added_again(three: Three, tmp_path: Path) -> None:
    with three.ssh_to(three.three, tmp_path) as (host, path):
        three.three.run("cluster", "leave")
        words = ("cluster", "add", host, "--name", "three")
        said = three.head.run(*words, PATH=path)
        assert f"three ({three.three.address}) has joined the cluster" in said
        assert f"ok    head → box: {three.three.address} answers" in said
        three.until_up("three")
        keeper = lock_holder(three.three.home.keeper_lock)
        assert "has joined the cluster" in three.head.run(*words, PATH=path)
        assert lock_holder(three.three.home.keeper_lock) == keeper
    assert three.three.home.token.stat().st_mode & 0o777 == 0o600
    assert three.three.home.token.read_text() == three.head.home.token.read_text()


def test_every_box_is_checked_and_one_that_is_gone_is_named(three: Three) -> None:
    wait_for(lambda: _doctor(three).keys() >= {"two ports", "three ports"}, "they are checked")
    unlike_ok = [name for name, (status, _) in _doctor(three).items() if status != "ok"]
    assert all("disk" in name for name in unlike_ok)  # that of the tests may be small
    on_box = json.loads(three.two.run("cluster", "doctor", "--json"))
    assert [one["status"] for one in on_box if one["name"] != "disk"] == ["ok"] * 3
    three.three.run("cluster", "leave")
    wait_for(lambda: _doctor(three)["three"] == ("fail", "is not connected"), "it is named")
    three.join(three.three, "three")
    three.until_up("three")


def _doctor(three: Three) -> dict[str, tuple[str, str]]:
    """Return check → (status, finding), as `cluster doctor` says on the head."""
    command = three.head.command(sys.executable, "-m", "workbench", "cluster", "doctor", "--json")
    env = {**os.environ, "WORKBENCH_HOME": str(three.head.home.root)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return {one["name"]: (one["status"], one["finding"]) for one in json.loads(done.stdout)}


def test_a_box_that_is_drained_gives_its_trials_back_and_takes_none(three: Three) -> None:
    three.run_long(6)
    before = three.until_committed("two:cpu-0", "two:cpu-1", "cpu-0")
    assert "box two takes no more trials" in three.head.run("cluster", "drain", "two", "--now")
    empty = lambda: not any(card.startswith("two:") for card in three.live())  # noqa: E731
    wait_for(empty, "its trials have gone", LIMIT_S)
    three.obeyed(three.head.service.stop(before["cpu-0"].trial, kill=True))
    moved = [before["two:cpu-0"], before["two:cpu-1"]]
    wait_for(lambda: any(map(three.has_moved_on, moved)), "one goes on elsewhere", LIMIT_S)
    assert {three.attempts(old.trial)[0].outcome for old in moved} == {"yielded"}
    three.head.run("cluster", "undrain", "two")
    three.until_committed("two:cpu-0")


def test_a_sweep_ends_over_a_line_of_100_ms(three: Three) -> None:
    with delayed(three.two, 0.1):
        experiment = three.obeyed(three.head.service.submit(_short(three)))
        _check_done(three, three.until_ended(experiment))
    three.until_up("two")


def test_a_sweep_ends_over_a_thin_line(three: Three) -> None:
    with thin(three.two, "2mbit"):
        experiment = three.obeyed(three.head.service.submit(_short(three)))
        _check_done(three, three.until_ended(experiment))
    three.until_up("two")


def _short(three: Three) -> Recipe:
    settings = ("train.max_steps=8", "train.save_every=4", "sweep.max_parallel=6")
    sweep = "{parameters: {train.learning_rate: [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]}}"
    return short_recipe(three.base(), *settings, sweep=sweep)


def _check_done(three: Three, trials: list[TrialRow]) -> None:
    """Check that each trial was trained once and wholly, some of them over the slow line."""
    tuned = [trial for trial in trials if trial.kind == "tune"]
    assert {trial.state for trial in trials} == {State.DONE}
    assert all(len(three.attempts(trial.id)) == 1 for trial in tuned)
    assert any(three.attempts(trial.id)[0].card.startswith("two:") for trial in tuned)
    for trial in tuned:
        assert (three.head.home.trial(trial.id) / "adapter" / "adapter_config.json").exists()


def test_no_port_of_head_or_box_answers_without_the_token(three: Three) -> None:
    three.run_long(6)
    three.until_committed("cpu-0", "two:cpu-0")
    asked = [(h.address, port) for h in (three.head, three.two) for port in open_ports(h)]
    low, high = ray_commands.ALL_PORTS
    assert {20_102, 20_103, 20_104} < {port for _, port in asked}
    assert all(low <= port <= high for _, port in asked)
    pytest.importorskip("grpc")
    scan = Path(__file__).parents[1] / "support" / "port_scan.py"
    answers = json.loads(three.three.python(str(scan), json.dumps(asked)))
    assert [(address, port) for address, port, _ in answers] == asked
    assert {what for _, _, what in answers} == {"asks"}, answers


def test_a_sweep_uses_all_boxes_and_brings_everything_home(three: Three) -> None:
    rates = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]
    recipe = short_recipe(
        three.base(),
        "train.max_steps=16",
        "train.save_every=4",
        "sweep.max_parallel=6",
        sweep=f"{{parameters: {{train.learning_rate: {rates}}}}}",
    )
    experiment = three.obeyed(three.head.service.submit(recipe))
    trials = three.until_ended(experiment)
    assert {t.state for t in trials} == {State.DONE}
    tuned = [t for t in trials if t.kind == "tune"]
    used = {three.attempts(t.id)[-1].card.partition(":")[0] for t in tuned}
    assert {"two", "three"} < used
    for trial in tuned:
        assert (three.head.home.trial(trial.id) / "adapter" / "adapter_config.json").exists()
        assert len(three.attempts(trial.id)) == 1
    for box in (three.two, three.three):
        (base,) = (work_folder(box.home) / "bases").iterdir()
        blob = base / "model.safetensors"
        assert blob.stat().st_nlink == 2  # one copy, by its digest
        three.until_empty(work_folder(box.home) / "trials")


def test_a_network_that_is_cut_for_30_s_costs_no_work(three: Three) -> None:
    three.run_long(6)
    before = three.until_committed("two:cpu-0", "two:cpu-1")
    three.two.cut()
    try:
        wait_for(lambda: three.boxes()["two"] == "unusable", "the box is silent", LIMIT_S)
        # The silence is what is tested, so it has to last.
        silent = lambda: _silent_s(three, "two") > 28.0  # noqa: E731
        wait_for(silent, "30 s are over", LIMIT_S)
    finally:
        three.two.mend()
    three.until_up("two")
    card, reached = "two:cpu-0", before["two:cpu-0"].checkpoint_step or 0
    further = lambda: (three.live()[card].checkpoint_step or 0) > reached  # noqa: E731
    wait_for(further, "checkpoints come home again", LIMIT_S)
    now = three.live()
    for card in ("two:cpu-0", "two:cpu-1"):
        assert now[card].id == before[card].id
        assert len(three.attempts(now[card].trial)) == 1


def _silent_s(three: Three, box: str) -> float:
    listed = json.loads(three.head.run("cluster", "ls", "--json"))["boxes"]
    return float(next(one.get("silent_s", 0.0) for one in listed if one["box"] == box))


def test_trials_of_a_network_that_is_cut_for_good_are_not_run_twice(three: Three) -> None:
    three.run_long(6)
    cards = ("two:cpu-0", "two:cpu-1")
    live = three.until_committed(*cards, "cpu-0", "cpu-1")
    moved = [live[card] for card in cards]
    three.two.cut()
    try:
        wait_for(lambda: three.boxes()["two"] == "lost", "the box is given up", LIMIT_S)
        for card in ("cpu-0", "cpu-1"):  # these make room
            three.obeyed(three.head.service.stop(live[card].trial, kill=True))
        wait_for(lambda: all(map(three.has_moved_on, moved)), "others run its trials", LIMIT_S)
    finally:
        three.two.mend()
    three.until_up("two")
    for old in moved:
        first, second = three.attempts(old.trial)
        assert (first.outcome, second.outcome) == ("cut", None)
        assert second.from_step >= (old.checkpoint_step or 0)
    assert all(map(three.has_moved_on, moved))


def test_a_box_with_other_versions_is_shown_and_not_used(three: Three, tmp_path: Path) -> None:
    other = f"{metadata.version('accelerate')}.post1"
    info = tmp_path / f"accelerate-{other}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: accelerate\nVersion: {other}\n")
    three.two.run("cluster", "leave")
    token = three.head.home.token.read_text()
    words = ("cluster", "join", three.head.address, "--name", "two")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    three.two.run(*words, typed=token, PYTHONPATH=path)
    wait_for(lambda: three.boxes()["two"] == "unusable", "its versions are seen", LIMIT_S)
    assert f"two: accelerate is {other} there" in three.head.run("cluster", "ls")
    three.run_long(6)
    three.until_committed("cpu-0", "three:cpu-0")
    assert not any(card.startswith("two") for card in three.live())
    three.head.run("cluster", "allow-skew", "two")
    three.until_up("two")
    three.until_committed("two:cpu-0")
    assert f"two: accelerate is {other} there" in three.head.run("cluster", "ls")
    three.head.run("cluster", "allow-skew", "two", "--undo")
    three.end_all()
    three.two.run("cluster", "leave")
    three.two.run(*words, typed=token)
    three.until_up("two")


def test_a_box_that_is_lost_gives_its_trials_to_others(three: Three) -> None:
    three.run_long(6)
    cards = ("three:cpu-0", "three:cpu-1")
    live = three.until_committed(*cards, "cpu-0", "cpu-1")
    moved = [live[card] for card in cards]
    three.three.kill_all()
    for card in ("cpu-0", "cpu-1"):  # these make room
        three.obeyed(three.head.service.stop(live[card].trial, kill=True))

    wait_for(lambda: all(map(three.has_moved_on, moved)), "its trials go on elsewhere", LIMIT_S)
    for old in moved:
        first, second = three.attempts(old.trial)
        assert (first.outcome, "box three was lost" in first.reason) == ("cut", True)
        assert second.from_step >= (old.checkpoint_step or 0)
    assert three.boxes()["three"] == "lost"
    assert not any(card.quarantined for card in three.head.service.snapshot().cards)
    three.three.run("cluster", "join", three.head.address)  # as a service does after a reboot
    three.until_up("three")


def test_an_agent_that_dies_is_replaced_while_its_box_trains_on(three: Three) -> None:
    three.run_long(6)
    old = three.until_committed("two:cpu-0")["two:cpu-0"]
    (agent,) = [pid for pid in three.two.pids() if program_name(pid).startswith("BoxAgent")]
    os.kill(agent, signal.SIGKILL)
    reached = three.live()["two:cpu-0"].checkpoint_step or 0
    further = lambda: (three.live()["two:cpu-0"].checkpoint_step or 0) > reached + 16  # noqa: E731
    wait_for(further, "checkpoints come home again", LIMIT_S)
    assert len(three.attempts(old.trial)) == 1


def test_after_the_head_was_killed_boxes_join_again_by_themselves(three: Three) -> None:
    three.run_long(6)
    before = three.until_committed("two:cpu-0", "three:cpu-0")
    three.head.kill_all()
    three.head.run("engine", "start")
    three.until_up("two", "three")
    resumed = three.until_committed("two:cpu-0", "three:cpu-0")
    for old in before.values():
        first, second = three.attempts(old.trial)[:2]
        assert first.outcome == "cut"
        assert second.from_step >= (old.checkpoint_step or 0)
    assert {one.id for one in resumed.values()}.isdisjoint(one.id for one in before.values())


def test_a_box_whose_node_is_killed_is_back_by_itself(three: Three) -> None:
    three.run_long(6)
    before = three.until_committed("two:cpu-0")
    (raylet,) = [pid for pid in three.two.pids() if program_name(pid) == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    old = before["two:cpu-0"]
    wait_for(lambda: len(three.attempts(old.trial)) > 1, "the trial is placed again", LIMIT_S)
    three.until_up("two")
    three.until_committed("two:cpu-0")
    assert three.attempts(old.trial)[0].outcome == "cut"
