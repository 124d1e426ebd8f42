"""The files of an attempt on another machine: they arrive by digest, and come home under the fence.

The agent runs in this process; a function stands for the card's worker, and writes what one writes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import recipe
from workbench.attempts.assignment import Assignment
from workbench.cluster.settings import work_folder
from workbench.fleet.boxes.agent import BoxAgent
from workbench.fleet.boxes.courier import Courier
from workbench.fleet.boxes.digests import DigestCache
from workbench.fleet.trial_fence import Superseded, TrialFence, allow_attempt
from workbench.home import Home

ROWS = "0123456789abcdef0123456789abcdef"


class WatchedAgent(BoxAgent):
    """An agent that counts the bytes it is sent, and to which a test can do harm."""

    taken_bytes = largest_chunk = 0
    calls_left = 1_000_000
    damage = False
    foreign: tuple[tuple[str, int, int], ...] = ()
    before_read: Callable[[], None] = staticmethod(lambda: None)

    def put(self, digest: str, offset: int, chunk: bytes, size: int) -> int:
        if self.calls_left == 0:
            raise TimeoutError("the network is cut")
        self.calls_left -= 1
        self.taken_bytes += len(chunk)
        self.largest_chunk = max(self.largest_chunk, len(chunk))
        return super().put(digest, offset, chunk, size)

    def read(self, path: str, offset: int, count: int) -> bytes:
        self.before_read()
        found = super().read(path, offset, count)
        return bytes(len(found)) if self.damage else found

    def files(self, attempt: str, trial: str) -> list[tuple[str, int, int]]:
        return [*super().files(attempt, trial), *self.foreign]


class Cluster:
    """A head's home with one prepared experiment and a base, and one box."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "head").make()
        self.box = Home(folder / "box").make()
        self.work = work_folder(self.box)
        self.base = folder / "base"
        self.base.mkdir()
        (self.base / "config.json").write_text("{}")
        (self.base / "model.safetensors").write_bytes(bytes(range(256)) * 64)
        prepared = {"data": {"digest": ROWS}, "model": {"path": str(self.base), "revision": None}}
        self.write(self.home.experiment(1) / "prepared.json", json.dumps(prepared))
        self.write(self.home.experiment(1) / "recipe.json", "{}")
        self.write(self.home.cache / ROWS / "about.json", "{}")
        self.write(self.home.cache / ROWS / "train.arrow", "rows")
        self.given: list[tuple[str, Assignment]] = []
        self.agent = WatchedAgent(self.box)
        self.courier = Courier(
            self.home,
            self.agent,
            self.work,
            lambda card, given: self.given.append((card, given)),
            DigestCache(),
            chunk_bytes=1_000,
        )

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def place(self, attempt: int, trial: int = 1, **changes: Any) -> Assignment:
        allow_attempt(self.home.trial(trial), attempt)
        self.home.attempt(attempt).mkdir(parents=True)
        given = Assignment(
            attempt=attempt,
            trial=trial,
            experiment=1,
            kind="tune",
            recipe=recipe(model={"name": str(self.base)}).model_dump(mode="json"),
            card={"uuid": "two:cpu-0"},
            plan={},
            folder=str(self.home.attempt(attempt)),
            trial_folder=str(self.home.trial(trial)),
            experiment_folder=str(self.home.experiment(1)),
        )
        given = replace(given, **changes)
        self.courier.take(given)
        return given

    def checkpoint(self, trial: int, step: int, text: str = "weights") -> None:
        """Write a checkpoint as the box's worker does."""
        folder = self.work / "trials" / str(trial) / "checkpoints" / f"step-{step:06d}"
        self.write(folder / "adapter.safetensors", f"{text} {step}")
        self.write(folder / "COMMIT.json", f"{text} {step}")

    def event(self, attempt: int, **data: Any) -> None:
        path = self.work / "attempts" / str(attempt) / "events.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(data) + "\n")

    def lines(self, attempt: int) -> list[str]:
        path = self.home.attempt(attempt) / "events.jsonl"
        return [json.loads(line)["kind"] for line in path.read_text().splitlines()]

    def at_home(self, trial: int = 1) -> list[str]:
        return sorted(path.name for path in self.home.trial(trial).glob("checkpoints/*"))


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_an_attempt_finds_its_files_where_its_assignment_says(cluster: Cluster) -> None:
    cluster.write(cluster.home.trial(7) / "adapter" / "adapter_model.safetensors", "warm")
    cluster.write(cluster.home.trial(1) / "checkpoints" / "step-000002" / "COMMIT.json", "two")
    warm = {"trial": 7, "folder": str(cluster.home.trial(7) / "adapter"), "sha256": "-"}
    cluster.place(1, warm=warm)
    cluster.courier.work_once()
    ((card, given),) = cluster.given
    assert (card, given.card["uuid"]) == ("two:cpu-0", "cpu-0")
    assert given.brought is not None
    assert (Path(given.brought["model"]) / "model.safetensors").stat().st_size == 256 * 64
    assert given.warm is not None
    assert (Path(given.warm["folder"]) / "adapter_model.safetensors").read_text() == "warm"
    assert (Path(given.trial_folder) / "checkpoints/step-000002/COMMIT.json").read_text() == "two"
    assert (Path(given.experiment_folder) / "prepared.json").exists()
    assert (cluster.work / "cache" / "data" / ROWS / "train.arrow").read_text() == "rows"
    assert (Path(given.trial_folder) / "live-attempt").read_text().strip() == "1"
    assert not Path(given.folder).is_relative_to(cluster.home.root)


def test_what_the_box_has_is_not_sent_again(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    once = cluster.agent.taken_bytes
    cluster.place(2, trial=2)
    cluster.courier.work_once()
    assert len(cluster.given) == 2
    assert cluster.agent.taken_bytes == once > 256 * 64


def test_a_transfer_that_was_cut_goes_on_where_it_stopped(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.agent.calls_left = 9
    with pytest.raises(TimeoutError):
        cluster.courier.work_once()
    assert not cluster.given
    cut = cluster.agent.taken_bytes
    cluster.agent.calls_left = 1_000_000
    cluster.courier.work_once()
    whole = sum(path.stat().st_size for path in (cluster.work / "blobs").iterdir())
    assert cluster.given
    assert 0 < cut < cluster.agent.taken_bytes == whole


def test_a_long_transfer_holds_up_no_checkpoint_and_shows_how_far_it_is(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    other = cluster.base.with_name("other")
    shutil.copytree(cluster.base, other)
    (other / "model.safetensors").write_bytes(bytes(reversed(range(256))) * 64)
    cluster.place(2, trial=2, recipe=recipe(model={"name": str(other)}).model_dump(mode="json"))
    cluster.checkpoint(1, 2)
    cluster.event(1, kind="checkpoint")
    cluster.courier.round_s = 0.0
    cluster.courier.work_once()
    assert (cluster.at_home(), cluster.lines(1)) == (["step-000002"], ["checkpoint"])
    two = cluster.courier.carried[2]
    shown = set()
    while cluster.courier.is_bringing:
        cluster.courier.work_once()
        shown.add(two.sent_bytes)
    assert two.all_bytes == 256 * 64
    assert {0, 1_000, 2_000, 15_000, two.all_bytes} <= shown
    assert len(cluster.given) == 2


def test_a_checkpoint_is_home_before_the_line_that_speaks_of_it(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.event(1, kind="started")
    cluster.checkpoint(1, 2)
    cluster.event(1, kind="checkpoint")
    cluster.courier.work_once()
    assert cluster.lines(1) == ["started", "checkpoint"]
    landed = cluster.home.trial(1) / "checkpoints" / "step-000002"
    assert (landed / "adapter.safetensors").read_text() == "weights 2"


def test_a_damaged_transfer_lands_nothing_and_holds_the_lines_back(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.checkpoint(1, 2)
    cluster.event(1, kind="checkpoint")
    cluster.agent.damage = True
    cluster.courier.work_once()
    assert cluster.at_home() == []
    assert not (cluster.home.attempt(1) / "events.jsonl").exists()
    cluster.agent.damage = False
    cluster.courier.work_once()
    assert (cluster.at_home(), cluster.lines(1)) == (["step-000002"], ["checkpoint"])


def test_checkpoints_that_the_box_removed_go_at_home_once_newer_ones_are_here(
    cluster: Cluster,
) -> None:
    cluster.write(cluster.home.trial(1) / "checkpoints" / "step-000002" / "COMMIT.json", "two")
    cluster.place(1)
    cluster.courier.work_once()
    cluster.checkpoint(1, 4)
    for path in (cluster.work / "trials/1/checkpoints/step-000002").iterdir():
        path.unlink()
    cluster.event(1, kind="checkpoint")
    cluster.courier.work_once()
    assert cluster.at_home() == ["step-000004"]


def test_an_attempt_that_was_replaced_lands_nothing_and_is_called_off(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.checkpoint(1, 2)
    cluster.event(1, kind="checkpoint")
    allow_attempt(cluster.home.trial(1), 2)
    cluster.courier.work_once()
    assert cluster.at_home() == []
    assert not (cluster.home.attempt(1) / "events.jsonl").exists()
    cluster.courier.work_once()
    assert not (cluster.work / "trials" / "1").exists()
    assert not cluster.courier.carried


def test_an_attempt_that_is_replaced_in_the_middle_of_a_transfer_lands_nothing(
    cluster: Cluster,
) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.checkpoint(1, 2)
    cluster.agent.before_read = lambda: allow_attempt(cluster.home.trial(1), 2)
    cluster.courier.work_once()
    assert cluster.at_home() == []
    assert cluster.courier.carried[1].is_over


def test_a_trial_that_was_killed_and_removed_gets_no_more_files(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.checkpoint(1, 2)
    cluster.agent.before_read = lambda: shutil.rmtree(cluster.home.trial(1), ignore_errors=True)
    for _ in range(3):  # it lands nothing, is called off, and its files go
        cluster.courier.work_once()
    assert cluster.at_home() == []
    assert not (cluster.work / "trials" / "1").exists()


def test_the_bytes_a_second_are_bounded(cluster: Cluster) -> None:
    cluster.courier.limit_bytes_per_s = 100_000
    cluster.place(1)
    began_s = time.monotonic()
    cluster.courier.work_once()
    assert cluster.given
    assert time.monotonic() - began_s >= cluster.agent.taken_bytes / 100_000


def test_times_are_those_of_the_heads_clock(cluster: Cluster) -> None:
    cluster.courier.skew_s = 3_600.0
    cluster.place(1)
    cluster.courier.work_once()
    for number in (1, 2):
        cluster.event(1, n=number, t=10_000.5 + number, kind="metric")
        cluster.courier.work_once()
    cluster.event(1, kind="without a time")
    cluster.courier.work_once()
    text = (cluster.home.attempt(1) / "events.jsonl").read_text()
    assert [json.loads(line).get("t") for line in text.splitlines()] == [6401.5, 6402.5, None]


def test_after_its_end_is_home_the_box_keeps_only_its_cache(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.write(cluster.work / "trials" / "1" / "adapter" / "adapter_model.safetensors", "kept")
    cluster.write(cluster.work / "evaluations" / "asked.jsonl", "questions")
    cluster.event(1, kind="adapter")
    cluster.event(1, kind="end")
    worker = TrialFence(cluster.work / "trials" / "1", 1)
    assert worker.take()
    cluster.courier.work_once()
    assert cluster.lines(1) == ["adapter", "end"]
    cluster.courier.work_once()
    assert cluster.courier.carried  # the worker has not let go of the trial yet
    worker.release()
    cluster.courier.work_once()
    adapter = cluster.home.trial(1) / "adapter" / "adapter_model.safetensors"
    assert adapter.read_text() == "kept"
    assert (cluster.home.root / "evaluations" / "asked.jsonl").read_text() == "questions"
    assert not (cluster.work / "trials" / "1").exists()
    assert not (cluster.work / "attempts" / "1").exists()
    assert list((cluster.work / "blobs").iterdir())
    assert not cluster.courier.carried


def test_a_base_that_has_gone_fails_the_start_with_its_reason(cluster: Cluster) -> None:
    (cluster.home.experiment(1) / "prepared.json").unlink()
    cluster.place(1)
    cluster.courier.work_once()
    (carried,) = cluster.courier.carried.values()
    assert "could not be brought" in carried.failure
    assert carried.has_room
    assert not cluster.given


def test_a_box_without_room_for_the_inputs_says_so(cluster: Cluster) -> None:
    cluster.agent._cache._floor_bytes = lambda: 1 << 60
    cluster.place(1)
    cluster.courier.work_once()
    (carried,) = cluster.courier.carried.values()
    assert "no room" in carried.failure
    assert not carried.has_room
    assert not cluster.given


def test_an_attempt_that_was_replaced_leaves_the_folder_to_its_successor(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    old = TrialFence(cluster.work / "trials" / "1", 1)
    assert old.take()
    cluster.place(2)
    for _ in range(3):
        cluster.courier.work_once()
    assert (cluster.work / "trials" / "1" / "live-attempt").read_text().strip() == "2"
    assert list(cluster.courier.carried) == [2]
    with pytest.raises(Superseded):
        old.check()
    old.release()


@pytest.mark.parametrize(
    "call",
    [
        lambda agent: agent.read("../token", 0, 10),
        lambda agent: agent.read("/etc/hostname", 0, 10),
        lambda agent: agent.digest("trials/../../token"),
        lambda agent: agent.lay([("../../token", "0" * 64)], "trials/1", "attempts/1", {}),
        lambda agent: agent.put("../" * 8 + "x" * 40, 0, b"", 0),
    ],
)
def test_no_path_leads_out_of_the_work_folder(
    cluster: Cluster, call: Callable[[BoxAgent], object]
) -> None:
    with pytest.raises(ValueError, match=r"out of the work folder|no digest"):
        call(cluster.agent)


def test_a_file_of_another_trial_does_not_come_home(cluster: Cluster) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.agent.foreign = (("trials/2/adapter/x", 1, 1),)
    with pytest.raises(ValueError, match="no file of attempt 1"):
        cluster.courier.work_once()


def test_a_slow_line_is_taken_in_small_chunks_with_looks_between_them(cluster: Cluster) -> None:
    looks = []
    cluster.courier._between = lambda: looks.append(time.monotonic())
    cluster.courier.limit_bytes_per_s, cluster.courier.round_s = 2_000, 0.0
    cluster.place(1)
    while not cluster.agent.largest_chunk:
        cluster.courier.work_once()
    assert cluster.agent.largest_chunk <= 500
    assert looks


def test_a_start_that_did_not_reach_the_worker_is_given_again(cluster: Cluster) -> None:
    cluster.place(5)
    (carried,) = cluster.courier.carried.values()
    assert carried.is_under_way(last_attempt=3)  # its worker waits for the inputs
    cluster.courier.work_once()
    assert not carried.is_under_way(last_attempt=3)  # as of a worker that was told nothing


def test_an_attempt_that_its_worker_left_without_an_end_is_over_once_all_is_home(
    cluster: Cluster,
) -> None:
    cluster.place(5)
    cluster.courier.work_once()
    cluster.checkpoint(1, 2)
    cluster.event(5, kind="checkpoint")
    (carried,) = cluster.courier.carried.values()
    assert carried.is_under_way(last_attempt=5)
    cluster.courier.work_once()
    assert carried.is_under_way(last_attempt=5)
    cluster.courier.work_once()
    assert not carried.is_under_way(last_attempt=5)
    assert (cluster.at_home(), cluster.lines(5)) == (["step-000002"], ["checkpoint"])


@pytest.mark.parametrize("removed", ["attempts/1", "attempts/1/events.jsonl"])
def test_an_attempt_whose_record_was_removed_is_called_off_and_not_written_again(
    cluster: Cluster, removed: str
) -> None:
    cluster.place(1)
    cluster.courier.work_once()
    cluster.event(1, kind="started")
    cluster.courier.work_once()
    gone = cluster.home.root / removed
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    cluster.event(1, kind="metric")
    for _ in range(2):
        cluster.courier.work_once()
    assert not gone.exists()
    assert not cluster.courier.carried
    assert not (cluster.work / "trials" / "1").exists()


def test_trouble_with_one_attempt_does_not_keep_the_others_from_coming_home(
    cluster: Cluster,
) -> None:
    for number in (1, 2):
        cluster.place(number, trial=number)
    cluster.courier.work_once()
    cluster.write(cluster.home.trial(1) / "checkpoints", "a file where a folder has to be")
    cluster.checkpoint(1, 2)
    cluster.event(2, kind="started")
    with pytest.raises(OSError, match="checkpoints"):
        cluster.courier.work_once()
    assert cluster.lines(2) == ["started"]
