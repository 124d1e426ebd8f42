"""The cards of a machine are found, and restricted to those we may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.errors import NotThere, UsageError, WorkbenchError
from workbench.machine.cards import (
    Card,
    cards_from,
    cpu_cards,
    detect_cards,
    parse_bytes,
)
from workbench.machine.nvml import DriverProblem, GpuFacts
from workbench.machine.resources import available_memory, total_memory

GIB = 1 << 30


def gpu(uuid: str, name: str = "GeForce RTX 3090", gib: int = 24, *, mig: bool = False) -> GpuFacts:
    return GpuFacts(
        uuid=uuid,
        name=name,
        total_bytes=gib * GIB,
        free_bytes=gib * GIB,
        capability=(8, 6),
        mig=mig,
    )


ALIKE = [gpu("GPU-6f1a"), gpu("GPU-6f2b"), gpu("GPU-a02c")]
UNLIKE = [gpu("GPU-6f1a"), gpu("GPU-b000", "Tesla T4", 15)]


class Table:
    """A driver that reports the given facts."""

    def __init__(self, facts: list[GpuFacts], problem: str = "") -> None:
        self.facts = facts
        self.problem = problem

    def version(self) -> str:
        return "580.65.06" if self.facts else ""

    def gpus(self) -> list[GpuFacts]:
        if self.problem:
            raise DriverProblem(self.problem)
        return self.facts


def uuids(cards: list[Card]) -> list[str]:
    return [card.uuid for card in cards]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 << 30),
        (" 24 gib ", 24 << 30),
        ("24G", 24 << 30),
        ("24GB", 24 * 10**9),
        ("1.5TiB", 3 << 39),
        ("512MiB", 512 << 20),
        ("64k", 64 << 10),
        ("4096", 4096),
        ("4096B", 4096),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "24XB", "1e9", "24 GiB GiB", "9" * 99])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes(text)


class TestGpus:
    def test_all_are_found(self) -> None:
        cards = detect_cards({}, Table(ALIKE))
        assert uuids(cards) == ["GPU-6f1a", "GPU-6f2b", "GPU-a02c"]
        assert cards[0].capability == (8, 6)
        assert cards[0].usable_bytes == 24 * GIB

    @pytest.mark.parametrize(
        ("visible", "found"),
        [
            ("2,0", ["GPU-a02c", "GPU-6f1a"]),
            ("GPU-a02", ["GPU-a02c"]),
            ("1,GPU-6f1a", ["GPU-6f2b", "GPU-6f1a"]),
            ("0,7,1", ["GPU-6f1a"]),
            ("0,0", ["GPU-6f1a"]),
            ("1,GPU-6f2b,0,1", ["GPU-6f2b", "GPU-6f1a"]),
        ],
    )
    def test_the_persons_cuda_visible_devices_is_kept_to(
        self, visible: str, found: list[str]
    ) -> None:
        assert uuids(cards_from({"CUDA_VISIBLE_DEVICES": visible}, ALIKE)) == found

    @pytest.mark.parametrize("visible", ["", "-1", "MIG-1234", "nonsense"])
    def test_no_visible_gpu_means_cpu_cards(self, visible: str) -> None:
        cards = cards_from({"CUDA_VISIBLE_DEVICES": visible}, ALIKE)
        assert {card.kind for card in cards} == {"cpu"}

    def test_an_index_that_might_mean_another_card_is_refused(self) -> None:
        with pytest.raises(UsageError) as refused:
            cards_from({"CUDA_VISIBLE_DEVICES": "1"}, UNLIKE)
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in refused.value.hint
        assert "GPU-b000" in refused.value.hint

    def test_an_index_in_bus_order_is_plain(self) -> None:
        env = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        assert uuids(cards_from(env, UNLIKE)) == ["GPU-b000"]

    def test_all_indices_mean_all_cards_in_any_order(self) -> None:
        assert len(cards_from({"CUDA_VISIBLE_DEVICES": "0,1"}, UNLIKE)) == 2

    def test_a_card_in_slices_is_left_alone(self) -> None:
        assert uuids(cards_from({}, [gpu("GPU-1", mig=True), gpu("GPU-2")])) == ["GPU-2"]

    def test_a_driver_that_fails_is_reported_with_its_hint(self) -> None:
        with pytest.raises(WorkbenchError, match="version mismatch") as refused:
            detect_cards({}, Table([], "Driver/library version mismatch: reboot"))
        assert "doctor" in refused.value.hint


class TestWishes:
    def test_a_card_is_capped_by_the_head_of_its_uuid(self) -> None:
        cards = cards_from({"WORKBENCH_CARDS": "GPU-a0=12GiB, GPU-6f1=8GiB"}, ALIKE)
        assert [card.usable_bytes // GIB for card in cards] == [8, 24, 12]
        assert cards[2].total_bytes == 24 * GIB

    def test_a_cap_above_the_card_caps_nothing(self) -> None:
        [card] = cards_from({"WORKBENCH_CARDS": "GPU-6f1=80GiB"}, ALIKE[:1])
        assert card.usable_bytes == 24 * GIB

    def test_an_unknown_card_is_not_there_and_those_there_are_named(self) -> None:
        with pytest.raises(NotThere, match="no card GPU-9") as gone:
            cards_from({"WORKBENCH_CARDS": "GPU-9=24GiB"}, ALIKE)
        assert "GPU-6f1a (GeForce RTX 3090)" in gone.value.hint

    def test_a_card_that_is_named_twice_is_refused(self) -> None:
        with pytest.raises(UsageError, match="capped already") as refused:
            cards_from({"WORKBENCH_CARDS": "GPU-a02=8GiB,GPU-a02c=16GiB"}, ALIKE)
        assert "name each card once" in refused.value.hint
        assert cards_from({"WORKBENCH_CARDS": "GPU-a02c=16GiB"}, ALIKE)

    def test_a_name_of_several_cards_is_refused(self) -> None:
        with pytest.raises(UsageError, match="names 2 cards"):
            cards_from({"WORKBENCH_CARDS": "GPU-6f=24GiB"}, ALIKE)

    def test_cpu_cards_are_made_as_named(self) -> None:
        cards = detect_cards({"WORKBENCH_CARDS": "cpu:24GiB,cpu:24GiB,cpu:12GiB"}, Table(ALIKE))
        assert uuids(cards) == ["cpu-0", "cpu-1", "cpu-2"]
        assert [card.total_bytes // GIB for card in cards] == [24, 24, 12]

    @pytest.mark.parametrize(
        ("wish", "why"),
        [
            ("cpu", "'cpu' has no size"),
            ("cpu:8GiB,GPU-6f1a=8GiB", "no CPU card like the one before"),
        ],
    )
    def test_what_is_wrong_with_a_cpu_card_is_said(self, wish: str, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            cards_from({"WORKBENCH_CARDS": wish}, ALIKE)

    @pytest.mark.parametrize(
        "wish", ["GPU-6f1", "24GiB", "GPU-6f1a=lots", "cpu", "cpu:", "cpu:8GiB,GPU-6f1a=8GiB", "=1"]
    )
    def test_an_entry_that_cannot_be_read_is_reported_with_the_right_form(self, wish: str) -> None:
        with pytest.raises(UsageError) as refused:
            cards_from({"WORKBENCH_CARDS": wish}, ALIKE)
        assert "WORKBENCH_CARDS" in refused.value.what
        assert "GiB" in refused.value.hint


class TestCpu:
    def test_a_machine_without_gpu_gets_at_least_two_cards(self) -> None:
        cards = detect_cards({}, Table([]))
        assert len(cards) >= 2
        assert {card.kind for card in cards} == {"cpu"}
        assert all(card.total_bytes > 0 and card.capability is None for card in cards)

    def test_cards_share_the_memory_and_leave_some(self) -> None:
        cards = cpu_cards(4, 40 * GIB)
        assert [card.total_bytes // GIB for card in cards] == [8, 8, 8, 8]

    def test_a_containers_limit_counts(self, tmp_path: Path) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text("MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n")
        assert total_memory(tmp_path) == 4 * GIB
        assert available_memory(tmp_path) == 2 * GIB
        cgroup = tmp_path / "sys/fs/cgroup"
        cgroup.mkdir(parents=True)
        (cgroup / "memory.max").write_text(f"{GIB}\n")
        (cgroup / "memory.current").write_text(f"{GIB // 4}\n")
        assert total_memory(tmp_path) == GIB
        assert available_memory(tmp_path) == GIB * 3 // 4
        (cgroup / "memory.stat").write_text(f"anon 1\ninactive_file {GIB // 8}\nactive_file 0\n")
        assert available_memory(tmp_path) == GIB * 7 // 8, "what holds files is given back"
        (cgroup / "memory.max").write_text("max\n")
        assert available_memory(tmp_path) == 2 * GIB


def test_a_card_goes_over_the_wire_and_back() -> None:
    [card] = cards_from({"WORKBENCH_CARDS": "GPU-6f1=8GiB"}, ALIKE[:1])
    assert Card.from_json(card.to_json()) == card
