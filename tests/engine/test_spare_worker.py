"""When a spare worker is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_in_process import RayInProcess
from tests.support.tick_contexts import WORKER, Bench, cpu_card, make_bench, recipe
from workbench.fleet.inline_fleet import InlineFleet
from workbench.fleet.spare_worker import RETRY_S, SpareWorker
from workbench.machine.cards import Card
from workbench.scheduler.tick_context import STOPPING

GIB = 1 << 30


class NotingFleet(InlineFleet):
    """An InlineFleet that notes for which card a spare is kept."""

    spare: str | None = None

    def keep_spare(self, card: Card | None) -> None:
        self.spare = card.uuid if card is not None else None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Two cards on a machine with 16 GiB, of which 8 are available, and a trial that runs."""
    made = make_bench(tmp_path, [cpu_card(0), cpu_card(1)])
    numbers = iter(range(1, 100))
    made.context.fleet = NotingFleet(
        str(made.context.home.root), lambda card: next(numbers), worker=WORKER
    )
    made.context.host_memory = lambda: (8 * GIB, 16 * GIB)
    yield made
    made.context.fleet.close()
    made.store.close()


def spare(bench: Bench) -> str | None:
    """Tick, and return the card for whose kind a spare is kept."""
    bench.ticks(2)
    assert isinstance(bench.context.fleet, NotingFleet)
    return bench.context.fleet.spare


def train(bench: Bench) -> None:
    bench.submit(recipe(train={"max_steps": 1_000}))


def test_a_spare_is_kept_from_the_first_worker_on_until_the_engine_stops(bench: Bench) -> None:
    assert spare(bench) is None
    train(bench)
    assert spare(bench) == "cpu-0"
    bench.store.set_fact(STOPPING, "1")
    assert spare(bench) is None


def test_a_spare_stays_while_the_only_worker_is_being_replaced(bench: Bench) -> None:
    train(bench)
    assert spare(bench) == "cpu-0"
    for card in list(bench.context.reports):
        bench.context.fleet.end(card, "its process ended")
    bench.ticks(1)
    assert isinstance(bench.context.fleet, NotingFleet)
    assert bench.context.fleet.spare == "cpu-0"


def test_a_drained_card_needs_no_spare(bench: Bench) -> None:
    train(bench)
    bench.store.db.execute("update cards set drained = 1 where uuid = 'cpu-0'")
    assert spare(bench) == "cpu-1"
    bench.store.db.execute("update cards set drained = 1")
    assert spare(bench) is None


@pytest.mark.parametrize(
    ("setting", "total_gib", "kept"),
    [("", 16, True), ("", 8, False), ("spare = true", 8, True), ("spare = false", 64, False)],
    ids=["large machine", "small machine", "asked for", "switched off"],
)
def test_the_configuration_decides_or_else_the_size_of_the_machine(
    bench: Bench, setting: str, total_gib: int, kept: bool
) -> None:
    (bench.context.home.root / "config.toml").write_text(f"[workers]\n{setting}\n")
    bench.context.host_memory = lambda: (total_gib * GIB // 2, total_gib * GIB)
    train(bench)
    assert (spare(bench) is not None) is kept


def test_a_spare_ends_before_training_waits_for_memory_and_starts_with_plenty(bench: Bench) -> None:
    train(bench)
    kept = []
    for available_gib in (8.0, 2.0, 1.5, 3.5, 4.0):
        bench.context.host_memory = lambda gib=available_gib: (int(gib * GIB), 16 * GIB)  # type: ignore[misc]
        kept.append(spare(bench) is not None)
    assert kept == [True, True, False, False, True]


class SpareProcess:
    """An actor that has nothing to import; its process waits for the end of its input."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def import_ahead(self, card: dict[str, Any]) -> dict[str, Any]:
        return {"pid": self.process.pid, "unfit": ""}

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_spares_that_end_are_replaced_less_and_less_often() -> None:
    now_s, made = 0.0, list[SpareProcess]()
    card = Card(uuid="cpu-0", kind="cpu", name="CPU", total_bytes=GIB)

    def make() -> SpareProcess:
        made.append(SpareProcess())
        return made[-1]

    ray = RayInProcess(make)
    spare = SpareWorker(lambda card: ray.remote(SpareProcess).remote(), 0.0, lambda: now_s)
    spare.keep(ray, card)
    for pause_s in (RETRY_S, 2 * RETRY_S, 4 * RETRY_S):
        spare.keep(ray, card)
        assert spare.pid == made[-1].process.pid
        made[-1].close()
        spare.keep(ray, card)
        assert spare.pid is None
        count, now_s = len(made), now_s + pause_s - 1
        spare.keep(ray, card)
        assert len(made) == count
        now_s += 1
        spare.keep(ray, card)
        assert len(made) == count + 1
    spare.end(ray)
    assert made[-1].process.returncode is not None
