"""A cluster of three hosts: network namespaces on one machine, real Ray, the real trainer.

The hosts are made once for all tests here; each test leaves three boxes that are up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.namespaces import Host, hosts
from tests.support.waiting import wait_for
from tests.support.whole import short_recipe
from workbench.cluster import ray_commands
from workbench.cluster.settings import work_folder
from workbench.machine.processes import LOOPBACK, program_name
from workbench.recipe.shipped import shipped_file
from workbench.store.rows import AttemptRow, TrialRow
from workbench.trial import State

pytestmark = [pytest.mark.fault, pytest.mark.slow]
LIMIT_S = 150.0


class Three:
    """The head and two boxes."""

    def __init__(self, made: list[Host], folder: Path) -> None:
        self.head, self.two, self.three = made
        self.folder = folder

    def join(self, box: Host, name: str) -> str:
        token = str(self.head.home.token)
        return box.run("cluster", "join", self.head.address, "--token-file", token, "--name", name)

    def boxes(self) -> dict[str, str]:
        """Return box → state, as `cluster ls` says."""
        listed = json.loads(self.head.run("cluster", "ls", "--json"))["boxes"]
        return {one["box"]: one["state"] for one in listed}

    def until_up(self, *names: str) -> None:
        up = lambda: all(self.boxes().get(name) == "up" for name in names)  # noqa: E731
        wait_for(up, f"{names} are up", LIMIT_S)

    def live(self) -> dict[str, AttemptRow]:
        """Return card → live attempt."""
        reader = self.head.service.reader()
        return {one.card: one for one in reader.live_attempts()} if reader else {}

    def until_committed(self, *cards: str) -> dict[str, AttemptRow]:
        """Wait until live attempts on these cards have a checkpoint at home."""

        def committed() -> dict[str, AttemptRow]:
            live = self.live()
            return live if all(c in live and live[c].checkpoint_step for c in cards) else {}

        return wait_for(committed, f"checkpoints of {cards} come home", LIMIT_S)

    def attempts(self, trial: int) -> list[AttemptRow]:
        return self.head.service.trial(trial).attempts

    def until_empty(self, folder: Path) -> None:
        wait_for(lambda: not list(folder.iterdir()), f"nothing is left in {folder}", LIMIT_S)

    def has_moved_on(self, old: AttemptRow) -> bool:
        """Return True once a later attempt of the trial, on another box, has a later checkpoint."""
        newest = self.attempts(old.trial)[-1]
        further = (newest.checkpoint_step or 0) > (old.checkpoint_step or 0)
        same_box = newest.card.partition(":")[0] == old.card.partition(":")[0]
        return newest.id > old.id and further and not same_box

    def base(self) -> str:
        """Return a base and rows that no box has: the demo's, in a folder of the head."""
        folder = self.folder / "base"
        if not folder.exists():
            shutil.copytree(shipped_file("workbench:demo/model"), folder)
        return f"model.name={folder}"

    def obeyed(self, request: str) -> int:
        answer = self.head.service.wait_for_answer(request, LIMIT_S)
        assert answer.ok, answer
        return int(answer.data.get("experiment") or 0)

    def until_ended(self, experiment: int) -> list[TrialRow]:
        """Wait until all trials of the experiment have ended, and return them."""

        def ended() -> list[TrialRow]:
            trials = self.head.service.trials(experiment)
            return trials if all(trial.state.final for trial in trials) else []

        return wait_for(ended, f"experiment {experiment} ends", LIMIT_S)

    def run_long(self, count: int) -> int:
        """Submit trials that run until they are ended; return the experiment."""
        rates = [0.001 * (1 + number) for number in range(count)]
        sweep = f"{{parameters: {{train.learning_rate: {rates}}}}}"
        return self.obeyed(self.head.service.submit(short_recipe(self.base(), sweep=sweep)))

    def end_all(self) -> None:
        """Kill every trial."""
        for trial in self.head.service.snapshot().trials:
            if not trial.state.final:
                self.obeyed(self.head.service.stop(trial.id, kill=True))
        over = lambda: all(t.state.final for t in self.head.service.snapshot().trials)  # noqa: E731
        wait_for(over, "all trials have ended", LIMIT_S)


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


def open_ports(host: Host) -> list[int]:
    """Return every TCP port on which the host listens beyond loopback."""
    tables = host.python("-c", "print(*(open(f'/proc/net/{t}').read() for t in ('tcp', 'tcp6')))")
    found = set()
    for fields in (line.split() for line in tables.splitlines()):
        if len(fields) > 3 and fields[3] == "0A":  # listening, proc(5)
            address, port = fields[1].split(":")
            if address not in LOOPBACK:
                found.add(int(port, 16))
    return sorted(found)


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
    info = tmp_path / "accelerate-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: accelerate\nVersion: 0.0.1\n")
    three.two.run("cluster", "leave")
    token = three.head.home.token.read_text()
    words = ("cluster", "join", three.head.address, "--name", "two")
    three.two.run(*words, typed=token, PYTHONPATH=str(tmp_path))
    wait_for(lambda: three.boxes()["two"] == "unusable", "its versions are seen", LIMIT_S)
    assert "two: accelerate is 0.0.1 there" in three.head.run("cluster", "ls")
    three.run_long(6)
    three.until_committed("cpu-0", "three:cpu-0")
    assert not any(card.startswith("two") for card in three.live())
    three.two.run("cluster", "leave")
    three.two.run(*words, typed=token)
    three.until_up("two")
    three.until_committed("two:cpu-0")


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
