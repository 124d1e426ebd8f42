"""Placement across machines: by bytes, then where the base is held, then where its weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.tick_contexts import GIB, WORKER, Bench, cpu_card, gpu_card, recipe
from workbench.cluster.settings import work_folder
from workbench.fleet.boxes.agent import BoxAgent
from workbench.fleet.boxes.box_health import BoxHealth
from workbench.fleet.inline_fleet import InlineFleet
from workbench.home import Home
from workbench.scheduler.placement.near_bases import base_of
from workbench.store import card_table
from workbench.trial import State

MakeBench = Callable[..., Bench]


class BoxesFleet(InlineFleet):
    """A fleet in which the weights of a base are on some machines alone."""

    machines_with: frozenset[str] = frozenset()
    full: frozenset[str] = frozenset()

    def has_base(self, card: str, base: str) -> bool:
        return card.partition(":")[0] in self.machines_with

    def has_room(self, card: str, base: str) -> bool:
        return card.partition(":")[0] not in self.full


def on_box(box: str, gib: float = 24.0, **changes: Any) -> dict[str, Any]:
    return {**cpu_card(0, gib), "uuid": f"{box}:cpu-0", **changes}


def with_weights_on(bench: Bench, *machines: str) -> Bench:
    numbers = partial(card_table.next_generation, bench.store)
    fleet = BoxesFleet(str(bench.context.home.root), numbers, worker=WORKER)
    fleet.machines_with = frozenset(machines)
    bench.context.fleet = fleet
    return bench


def run_one(bench: Bench, base: str, **model: Any) -> str:
    """Run an experiment of one trial to its end; return the trial's card."""
    id = bench.submit(recipe(model={"name": base, **model}))
    trial = bench.store.trials(id)[-1].id
    bench.until(State.DONE, trial)
    return bench.store.attempts(trial)[-1].card


@pytest.fixture
def held(bench_of: MakeBench) -> Bench:
    """Two free cards, of which cpu-0 holds /two and cpu-1 holds /one."""
    bench = bench_of(cpu_card(0), cpu_card(1))
    card_table.set_drained(bench.store, "cpu-0", True)
    run_one(bench, "/one")
    card_table.set_drained(bench.store, "cpu-0", False)
    card_table.set_drained(bench.store, "cpu-1", True)
    run_one(bench, "/two")
    card_table.set_drained(bench.store, "cpu-1", False)
    return bench


def test_a_trial_goes_to_the_card_that_holds_its_base(held: Bench) -> None:
    cards = [run_one(held, base) for base in ("/one", "/two", "/one")]
    assert cards == ["cpu-1", "cpu-0", "cpu-1"]


def test_a_base_that_is_loaded_otherwise_is_another_one(held: Bench) -> None:
    trial, experiment = held.store.trials(1)[-1], held.store.experiment(1)
    unquantised = replace(trial, settings={"model.quantization": "none"})
    other_rate = replace(trial, settings={"train.learning_rate": 0.5})
    assert base_of(unquantised, experiment) != base_of(trial, experiment)
    assert base_of(other_rate, experiment) == base_of(trial, experiment)


def test_a_worker_that_released_its_base_holds_none(held: Bench) -> None:
    for _, worker in held.context.fleet._workers.values():  # type: ignore[attr-defined]
        worker.base = None
    assert run_one(held, "/one") == "cpu-0"


@pytest.mark.parametrize(
    ("cards", "has_weights", "expected"),
    [
        ((on_box("attic"), on_box("cellar")), ("cellar",), "cellar:cpu-0"),
        ((on_box("attic"), on_box("cellar")), (), "attic:cpu-0"),
        ((on_box("attic"), cpu_card(9)), ("attic", "cpu-9"), "cpu-9"),
        ((on_box("attic", 12.0), on_box("cellar")), ("cellar",), "attic:cpu-0"),
        ((on_box("attic", 23.99), on_box("cellar")), ("cellar",), "cellar:cpu-0"),
        (
            (on_box("attic", problem="its disk is low"), on_box("cellar")),
            ("attic",),
            "cellar:cpu-0",
        ),
    ],
    ids=[
        "weights are there",
        "nowhere",
        "the head first",
        "bytes before weights",
        "MiB do not count",
        "a box with a problem",
    ],
)
def test_a_trial_goes_where_the_weights_are(
    bench_of: MakeBench,
    cards: tuple[dict[str, Any], ...],
    has_weights: tuple[str, ...],
    expected: str,
) -> None:
    bench = with_weights_on(bench_of(*cards), *has_weights)
    bench.submit(recipe())
    bench.ticks(1)
    assert bench.store.live_attempts()[0].card == expected


def test_a_box_without_room_for_the_base_is_passed_over(bench_of: MakeBench) -> None:
    bench = with_weights_on(bench_of(on_box("attic"), on_box("cellar", 30.0)))
    bench.context.fleet.full = frozenset({"attic"})  # type: ignore[attr-defined]
    bench.submit(recipe())
    bench.submit(recipe())
    bench.ticks(1)
    assert [attempt.card for attempt in bench.store.live_attempts()] == ["cellar:cpu-0"]
    reason = bench.store.trials(2)[0].waiting
    assert "attic:cpu-0 has no room for the base on its machine's disk" in reason


def test_the_start_gap_is_each_machines_own(bench_of: MakeBench) -> None:
    names = ("GPU-0", "attic:GPU-0", "attic:GPU-1", "cellar:GPU-0")
    bench = bench_of(*({**gpu_card(0), "uuid": name} for name in names))
    bench.submit(recipe(sweep={"parameters": {"train.learning_rate": [0.1, 0.2, 0.3, 0.4]}}))
    bench.ticks(1)
    at_once = sorted(attempt.card for attempt in bench.store.live_attempts())
    assert at_once == ["GPU-0", "attic:GPU-0", "cellar:GPU-0"]


def test_a_box_below_its_floor_takes_nothing_until_it_has_room() -> None:
    health = BoxHealth("attic")
    assert health.see(3 * GIB, 2 * GIB, 0.0) == []
    ((level, text),) = health.see(1 * GIB, 2 * GIB, 0.0)
    assert level == "warning"
    assert "the disk of box attic has 1.0 GiB left, below 2.0 GiB (guards.disk_floor)" in text
    assert health.problem in text
    assert health.see(2 * GIB + 1, 2 * GIB, 0.0) == []  # it does not flap
    assert health.problem
    assert health.see(3 * GIB, 2 * GIB, 0.0) == [
        ("info", "the disk of box attic has 3.0 GiB free again")
    ]
    assert not health.problem


def test_a_clock_that_is_off_by_a_second_is_told_of_once() -> None:
    health = BoxHealth("attic")
    told = [health.see(GIB, 0, skew_s) for skew_s in (0.9, -1.1, -0.9, -1.1, 0.2)]
    assert [len(notes) for notes in told] == [0, 1, 0, 0, 1]
    assert "the clock of box attic is 1.1 s behind the head's" in told[1][0][1]
    assert "agrees with the head's again" in told[4][0][1]


def test_a_box_has_a_floor_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "box").make()
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "config.toml").write_text('[guards]\ndisk_floor = "3GiB"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    look = BoxAgent(home).look()
    assert (look["floor_bytes"], look["bases"]) == (3 * GIB, [])
    assert work_folder(home).is_dir()
