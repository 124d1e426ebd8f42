"""The Fleet interface, tested against both implementations."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.heads import ray_head
from tests.support.tick_contexts import WORKER, recipe
from tests.support.waiting import wait_for
from workbench.attempts.assignment import Assignment
from workbench.attempts.events import Event, read_events
from workbench.fleet import Fleet, Halt, Phase, RayLost, Report, ray_fleet
from workbench.fleet.inline_fleet import InlineFleet
from workbench.fleet.ray_fleet import RayFleet
from workbench.machine.cards import Card
from workbench.machine.processes import identify_process, is_alive

CARDS = [Card(uuid=f"cpu-{i}", kind="cpu", name="CPU", total_bytes=1 << 30) for i in range(2)]


def runs_attempt(attempt: int) -> Callable[[Report | None], bool]:
    """Return a check that a worker's report names that attempt as the running one."""
    return lambda report: report is not None and report.attempt == attempt


def ended_attempt(attempt: int) -> Callable[[Report | None], bool]:
    """Return a check that a worker's report names that attempt as the last, and no other one."""
    return lambda report: (
        report is not None and report.last_attempt == attempt and report.phase is Phase.IDLE
    )


class FleetContract:
    """The contract that scheduler and tests rely on, for every fleet."""

    @pytest.fixture
    def fleet(self) -> Iterator[Fleet]:
        raise NotImplementedError

    @pytest.fixture
    def numbers(self) -> Iterator[int]:
        """Attempt numbers, ever growing over all tests that share a fleet."""
        raise NotImplementedError

    @staticmethod
    def given(tmp_path: Path, attempt: int, steps: int) -> Assignment:
        return Assignment(
            attempt=attempt,
            trial=attempt,
            experiment=1,
            kind="tune",
            recipe=recipe(train={"max_steps": steps, "save_every": 2}).model_dump(mode="json"),
            card={},
            plan={},
            folder=str(tmp_path / f"attempt-{attempt}"),
            trial_folder=str(tmp_path / f"trial-{attempt}"),
            experiment_folder=str(tmp_path),
        )

    @staticmethod
    def kinds(given: Assignment) -> list[str]:
        events, _ = read_events(Path(given.folder) / "events.jsonl", 0)
        return [event.kind for event in events if isinstance(event, Event)]

    @staticmethod
    def until(fleet: Fleet, card: Card, fact: Callable[[Report | None], bool]) -> Report | None:
        def look() -> Report | None:
            report = fleet.observe().get(card.uuid)
            return report if fact(report) else None

        return wait_for(look, f"the report of {card.uuid}")

    def test_a_worker_runs_what_it_is_given_and_is_idle_again(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        given = self.given(tmp_path, next(numbers), 3)
        fleet.start(CARDS[0], given)
        report = self.until(fleet, CARDS[0], ended_attempt(given.attempt))
        assert report is not None
        assert report.pid
        assert self.kinds(given)[0] == "started"
        assert self.kinds(given)[-1] == "end"

    def test_starting_twice_is_starting_once(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        given = self.given(tmp_path, next(numbers), 3)
        fleet.start(CARDS[0], given)
        fleet.start(CARDS[0], given)
        self.until(fleet, CARDS[0], ended_attempt(given.attempt))
        assert self.kinds(given).count("started") == 1

    def test_two_cards_work_at_the_same_time(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        both = [self.given(tmp_path, next(numbers), 1_000_000) for _ in CARDS]
        for card, given in zip(CARDS, both, strict=True):
            fleet.start(card, given)
        for card, given in zip(CARDS, both, strict=True):
            self.until(fleet, card, runs_attempt(given.attempt))
        phases = {fleet.observe()[card.uuid].phase for card in CARDS}
        assert phases == {Phase.BUSY}
        for card, given in zip(CARDS, both, strict=True):
            fleet.halt(card.uuid, given.attempt, Halt.YIELD)
            self.until(fleet, card, lambda r: r is not None and r.phase is Phase.IDLE)

    def test_a_halt_ends_the_attempt_at_its_next_step(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        given = self.given(tmp_path, next(numbers), 1_000_000)
        fleet.start(CARDS[0], given)
        self.until(fleet, CARDS[0], lambda r: r is not None and r.attempt == given.attempt)
        fleet.halt("cpu-0", given.attempt - 1, Halt.FINISH)  # another attempt's: ignored
        fleet.halt("cpu-0", given.attempt, Halt.YIELD)
        self.until(fleet, CARDS[0], lambda r: r is not None and r.phase is Phase.IDLE)
        end = read_events(Path(given.folder) / "events.jsonl", 0)[0][-1]
        assert isinstance(end, Event)
        assert end.data["outcome"] == "yielded"

    def test_an_ended_worker_says_so_once_and_a_warmed_one_of_a_new_generation_takes_its_place(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        given = self.given(tmp_path, next(numbers), 1_000_000)
        fleet.start(CARDS[1], given)
        before = self.until(fleet, CARDS[1], runs_attempt(given.attempt))
        fleet.end("cpu-1", "because")
        gone = fleet.observe()["cpu-1"]
        assert (gone.phase, gone.reason) == (Phase.GONE, "because")
        assert "cpu-1" not in fleet.observe()
        fleet.warm(CARDS[1])
        fleet.warm(CARDS[1])
        warm = self.until(fleet, CARDS[1], lambda r: r is not None and r.phase is Phase.IDLE)
        given = self.given(tmp_path, next(numbers), 2)
        fleet.start(CARDS[1], given)
        after = self.until(fleet, CARDS[1], ended_attempt(given.attempt))
        assert before is not None
        assert warm is not None
        assert after is not None
        assert after.generation == warm.generation > before.generation


class TestInlineFleet(FleetContract):
    @pytest.fixture
    def numbers(self) -> Iterator[int]:
        return itertools.count(1)

    @pytest.fixture
    def fleet(self, tmp_path: Path) -> Iterator[Fleet]:
        count = itertools.count(1)
        made = InlineFleet(str(tmp_path), lambda card: next(count), worker=WORKER)
        yield made
        made.close()


class TestRayFleet(FleetContract):
    _numbers = itertools.count(1)

    @pytest.fixture
    def numbers(self) -> Iterator[int]:
        return self._numbers

    @pytest.fixture(scope="class")
    def fleet(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
        count = itertools.count(1)
        root = str(Path(__file__).parents[2])
        os.environ["PYTHONPATH"] = root
        with ray_head() as address:
            home = str(tmp_path_factory.mktemp("home"))
            made = RayFleet(home, address, lambda card: next(count), WORKER, spare_pause_s=0.0)
            wait_for(made.connect, "the head answers")
            yield made
            made.close()

    def test_each_card_has_a_process_of_its_own(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        pids = set()
        for card in CARDS:
            given = self.given(tmp_path, next(numbers), 1)
            fleet.start(card, given)
            report = self.until(fleet, card, ended_attempt(given.attempt))
            assert report is not None
            pids.add(report.pid)
        assert len(pids) == 2
        assert os.getpid() not in pids

    def test_a_worker_killed_from_outside_is_noticed(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        given = self.given(tmp_path, next(numbers), 1_000_000)
        fleet.start(CARDS[0], given)
        report = self.until(fleet, CARDS[0], lambda r: r is not None and r.attempt == given.attempt)
        assert report is not None
        assert report.pid
        os.kill(report.pid, 9)
        gone = self.until(fleet, CARDS[0], lambda r: r is not None and r.phase is Phase.GONE)
        assert gone is not None
        assert gone.reason

    def test_the_reason_of_a_worker_that_does_not_start_arrives(
        self, fleet: Fleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        assert isinstance(fleet, RayFleet)
        card = Card(uuid="cpu-2", kind="cpu", name="CPU", total_bytes=1 << 30)
        fleet._worker, worker = "tests.support.refusing_worker:RefusingWorker", fleet._worker
        try:
            fleet.start(card, self.given(tmp_path, next(numbers), 1))
        finally:
            fleet._worker = worker
        gone = self.until(fleet, card, lambda r: r is not None and r.phase is Phase.GONE)
        assert gone is not None
        assert gone.reason == "DriverMissing: libcuda.so.1 was not found on this machine"

    @staticmethod
    def spare(fleet: RayFleet) -> int:
        """Keep a spare until it is ready; return its pid."""

        def look() -> int | None:
            fleet.keep_spare(CARDS[0])
            return fleet.spare_pid

        pid = wait_for(look, "a spare worker")
        assert pid is not None
        return pid

    def test_the_spare_becomes_the_worker_of_the_next_card_without_one_unless_it_has_ended(
        self, fleet: RayFleet, tmp_path: Path, numbers: Iterator[int]
    ) -> None:
        fleet.end("cpu-0", "so that there is none")
        fleet.observe()
        pid = self.spare(fleet)
        given = self.given(tmp_path, next(numbers), 3)
        fleet.start(CARDS[0], given)
        assert fleet.spare_pid is None
        done = self.until(fleet, CARDS[0], ended_attempt(given.attempt))
        assert done is not None
        assert done.pid == pid
        assert self.kinds(given)[-1] == "end"
        second = self.spare(fleet)
        known = identify_process(second)
        assert second != pid
        assert known is not None
        fleet.end("cpu-0", "so that there is none")
        fleet.observe()
        os.kill(second, 9)
        wait_for(lambda: not is_alive(known), "its end")
        fleet.warm(CARDS[0])
        report = self.until(fleet, CARDS[0], lambda r: r is not None and r.phase is Phase.IDLE)
        assert report is not None
        assert report.pid != second
        fleet.keep_spare(None)
        assert fleet.spare_pid is None

    def test_a_spare_that_cannot_take_the_card_says_why_and_ends(self, fleet: RayFleet) -> None:
        card = Card(uuid="cpu-3", kind="cpu", name="CPU", total_bytes=1 << 30)
        fleet._worker, worker = "tests.support.refusing_worker:RefusingWorker", fleet._worker
        try:
            known = identify_process(self.spare(fleet))
        finally:
            fleet._worker = worker
        fleet.warm(card)
        gone = self.until(fleet, card, lambda r: r is not None and r.phase is Phase.GONE)
        assert gone is not None
        assert gone.reason == "DriverMissing: libcuda.so.1 was not found on this machine"
        assert known is not None
        wait_for(lambda: not is_alive(known), "the end of its process")


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of a port that accepts connections, behind which no head is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_that_accepts_a_connection_and_never_answers_counts_as_lost(
    tmp_path: Path, listening: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    class Silent(RayFleet):
        def _init_ray(self) -> None:
            answer.wait()

    fleet = Silent(str(tmp_path), listening, lambda card: 1, WORKER)
    assert not fleet.connect()
    assert not fleet.connect()  # the loop ticks on
    monkeypatch.setattr(ray_fleet, "CONNECT_LIMIT_S", 0.0)
    with pytest.raises(RayLost, match="did not answer within"):
        fleet.connect()
    answer.set()
    fleet.close()


def test_a_connection_that_is_refused_for_good_ends_the_unit_with_its_reason(
    tmp_path: Path, listening: str
) -> None:
    class Refused(RayFleet):
        def _init_ray(self) -> None:
            raise ValueError("the address is no address")

    fleet = Refused(str(tmp_path), listening, lambda card: 1, WORKER)

    def refuses() -> bool:
        try:
            return fleet.connect()
        except RayLost as lost:
            return "the address is no address" in str(lost)

    wait_for(refuses, "the refusal")
    fleet.close()


def test_a_thread_that_connects_between_two_looks_is_not_followed_by_another(
    tmp_path: Path, listening: str
) -> None:
    begun: list[int] = []

    class Quick(RayFleet):
        def _init_ray(self) -> None:
            begun.append(1)
            self._ray = SimpleNamespace(kill=None, shutdown=lambda: None)

    fleet = Quick(str(tmp_path), listening, lambda card: 1, WORKER)
    wait_for(fleet.connect, "the connection")
    assert fleet.connect()
    assert begun == [1]
    fleet.close()
