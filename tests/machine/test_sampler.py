"""Readings of the cards contain failures, and an old reading is recognised as old."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.machine.nvml import DriverProblem, GpuFacts
from workbench.machine.sampler import MachineReading, Sampler, load_reading, write_reading

GIB = 1 << 30
FIRST = GpuFacts(
    uuid="GPU-1",
    name="RTX 3090",
    total_bytes=24 * GIB,
    capability=(8, 6),
    free_bytes=20 * GIB,
    used_bytes=4 * GIB,
    utilisation=93,
    temperature_c=71,
    power_w=349.5,
    processes=((4242, 4 * GIB), (17, None)),
)
SECOND = replace(FIRST, uuid="GPU-2", processes=())


class Table:
    """A driver that reports the current content of its table."""

    def __init__(self, *facts: GpuFacts) -> None:
        self.facts = list(facts)
        self.problem = ""

    def version(self) -> str:
        return "580.65.06"

    def gpus(self) -> list[GpuFacts]:
        if self.problem:
            raise DriverProblem(self.problem)
        return self.facts


def test_a_reading_is_written_and_read_back(tmp_path: Path) -> None:
    sample = Sampler({}, Table(FIRST, SECOND)).take(1000.0)
    write_reading(tmp_path / "cards.json", sample)
    assert load_reading(tmp_path / "cards.json", 1001.0) == sample
    assert [path.name for path in tmp_path.iterdir()] == ["cards.json"]


def test_the_file_holds_everything_about_a_card(tmp_path: Path) -> None:
    (tmp_path / "proc/4242").mkdir(parents=True)
    (tmp_path / "proc/4242/comm").write_text("python\n")
    full = replace(
        FIRST,
        index=1,
        bus="00000000:65:00.0",
        power_limit_w=370.0,
        energy_j=7200.5,
        ecc_errors=0,
        graphics=((9, GIB),),
        computing=((4242, 93),),
        xid_watch=True,
        xids=(31,),
    )
    write_reading(tmp_path / "cards.json", Sampler({}, Table(full), tmp_path).take(1000.0))
    data = json.loads((tmp_path / "cards.json").read_text())
    assert (data["at_utc"], data["driver"], data["problem"]) == (1000.0, "580.65.06", "")
    assert data["cards"] == [
        {
            "uuid": "GPU-1",
            "kind": "cuda",
            "name": "RTX 3090",
            "total_bytes": 24 * GIB,
            "capability": [8, 6],
            "cap_bytes": None,
            "free_bytes": 20 * GIB,
            "used_bytes": 4 * GIB,
            "index": 1,
            "bus": "00000000:65:00.0",
            "utilisation": 93,
            "temperature_c": 71,
            "power_w": 349.5,
            "power_limit_w": 370.0,
            "energy_j": 7200.5,
            "ecc_errors": 0,
            "processes": [
                {
                    "pid": 4242,
                    "bytes": 4 * GIB,
                    "name": "python",
                    "draws": False,
                    "utilisation": 93,
                },
                {"pid": 17, "bytes": None, "name": "", "draws": False, "utilisation": 0},
                {"pid": 9, "bytes": GIB, "name": "", "draws": True, "utilisation": 0},
            ],
            "xid_watch": True,
            "xids": [[1000.0, 31]],
            "lost": False,
            "ok": True,
            "problem": "",
        }
    ]


def test_an_old_reading_is_stalled(tmp_path: Path) -> None:
    write_reading(tmp_path / "cards.json", Sampler({}, Table(FIRST)).take(1000.0))
    assert not load_reading(tmp_path / "cards.json", 1009.0).stalled
    old = load_reading(tmp_path / "cards.json", 1011.0)
    assert old.stalled
    assert old.problem == "no reading of the cards for 11 s; the driver may hang"
    assert len(old.cards) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at_utc": 1}', b"\xff", b"null"])
def test_a_reading_that_cannot_be_read_is_stalled(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cards.json").write_bytes(content)
    sample = load_reading(tmp_path / "cards.json", 1.0)
    assert sample.stalled
    assert "cannot be read" in sample.problem


def test_no_reading_yet_is_stalled(tmp_path: Path) -> None:
    assert load_reading(tmp_path / "no.json", 1.0).problem == "the cards have not been read yet"


def test_a_card_that_is_gone_from_the_bus_is_reported_and_not_forgotten() -> None:
    table = Table(FIRST, SECOND)
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.facts = [FIRST]
    first, second = sampler.take(2.0).cards
    assert first.ok
    assert not second.ok
    assert second.free_bytes == 0
    assert "gone from the bus" in second.problem


def test_a_card_missed_once_is_not_lost_yet() -> None:
    table = Table(FIRST, SECOND)
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.facts = [FIRST]
    assert [sampler.take(at).cards[1].lost for at in (2.0, 3.0)] == [False, True]
    table.facts = [FIRST, SECOND]
    back = sampler.take(4.0).cards[1]
    assert (back.lost, back.ok) == (False, True)


def test_a_driver_that_fails_has_lost_no_card() -> None:
    table = Table(FIRST)
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.problem = "Unknown Error"
    assert [sampler.take(at).cards[0].lost for at in (2.0, 3.0, 4.0)] == [False] * 3


def test_xid_errors_stand_in_the_readings_after_theirs_too() -> None:
    table = Table(replace(FIRST, xids=(31, 43)))
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.facts = [FIRST]
    assert sampler.take(2.0).cards[0].xids == ((1.0, 31), (1.0, 43))
    table.facts = [replace(FIRST, xids=(13,) * 40)]
    assert sampler.take(3.0).cards[0].xids == ((3.0, 13),) * 16


def test_a_programs_name_is_made_harmless(tmp_path: Path) -> None:
    (tmp_path / "proc/4242").mkdir(parents=True)
    (tmp_path / "proc/4242/comm").write_bytes(b"\x1b[31mevil\xff\n")
    [card] = Sampler({}, Table(FIRST), tmp_path).take(1.0).cards
    assert "\x1b" not in card.processes[0].name
    assert "evil" in card.processes[0].name


def test_the_last_card_gone_is_not_replaced_by_stand_ins() -> None:
    table = Table(FIRST)
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.facts = []
    assert [card.card.uuid for card in sampler.take(2.0).cards] == ["GPU-1"]


def test_a_problem_of_one_card_is_on_that_card() -> None:
    lost = replace(SECOND, problem="GPU is lost", free_bytes=0)
    first, second = Sampler({}, Table(FIRST, lost)).take(1.0).cards
    assert first.ok
    assert second.problem == "GPU is lost"


def test_a_driver_that_fails_is_reported_and_queried_again() -> None:
    table = Table(FIRST)
    sampler = Sampler({}, table)
    sampler.take(1.0)
    table.problem = "Driver/library version mismatch"
    failed = sampler.take(2.0)
    assert failed.problem == "Driver/library version mismatch"
    assert [card.ok for card in failed.cards] == [False]
    table.problem = ""
    assert sampler.take(3.0).cards[0].ok


def test_an_entry_that_cannot_be_read_is_reported() -> None:
    sample = Sampler({"WORKBENCH_CARDS": "GPU-9=1GiB"}, Table(FIRST)).take(1.0)
    assert "there is no card GPU-9" in sample.problem


class TestCpuCards:
    def sampler(self, root: Path) -> Sampler:
        self.tell(root, available_kib=4 << 20, busy=100, idle=100)
        return Sampler({"WORKBENCH_CARDS": "cpu:8GiB,cpu:2GiB"}, Table(), root)

    def tell(self, root: Path, *, available_kib: int, busy: int, idle: int) -> None:
        (root / "proc").mkdir(exist_ok=True)
        (root / "proc/meminfo").write_text(f"MemAvailable: {available_kib} kB\n")
        (root / "proc/stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")

    def test_their_memory_is_the_machines(self, tmp_path: Path) -> None:
        big, small = self.sampler(tmp_path).take(1.0).cards
        assert (big.free_bytes, big.used_bytes) == (4 * GIB, 4 * GIB)
        assert (small.free_bytes, small.used_bytes) == (2 * GIB, 0)

    def test_their_utilisation_is_that_since_the_last_reading(self, tmp_path: Path) -> None:
        sampler = self.sampler(tmp_path)
        assert sampler.take(1.0).cards[0].utilisation is None
        self.tell(tmp_path, available_kib=4 << 20, busy=175, idle=125)
        assert sampler.take(2.0).cards[0].utilisation == 75


RUN = [sys.executable, "-m", "workbench.machine.sampler"]
ENV = {**os.environ, "WORKBENCH_CARDS": "cpu:1GiB"}


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_the_process_writes_a_private_reading(tmp_path: Path) -> None:
    out = tmp_path / "cards.json"
    child = subprocess.Popen([*RUN, str(out), "--every", "0.05"], env=ENV)
    try:
        wait_for(out)
        assert load_reading(out, time.time()).cards[0].card.uuid == "cpu-0"
        assert out.stat().st_mode & 0o777 == 0o600
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(10)


def test_one_reading_can_be_asked_for() -> None:
    asked = subprocess.run([*RUN, "--once"], env=ENV, capture_output=True, check=True, timeout=20)
    sample = MachineReading.from_json(json.loads(asked.stdout))
    assert [card.card.uuid for card in sample.cards] == ["cpu-0"]


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    out = tmp_path / "cards.json"
    code = (
        "import os, subprocess, sys\n"
        "subprocess.Popen(sys.argv[1:])\n"
        f"while not os.path.exists({str(out)!r}): os.sched_yield()\n"
    )
    reading, writing = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", code, *RUN, str(out), "--every", "0.05"],
        env=ENV,
        stdout=writing,
        close_fds=True,
    )
    os.close(writing)
    assert parent.wait(20) == 0
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b""  # ends when the last holder of the other end has
