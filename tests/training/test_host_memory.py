"""The machine's memory: loads wait for it, and training yields when it stays low."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.training.trials import Bench, halt_at, plan, recipe
from workbench.attempts.events import Outcome
from workbench.errors import DoesNotFit, HostMemory
from workbench.fleet import Halt
from workbench.machine.locks import Lock
from workbench.training.control import Control
from workbench.training.memory.host_memory import (
    IN_FLIGHT_BYTES,
    LOAD_PATIENCE_S,
    TRAIN_PATIENCE_S,
    MemoryMonitor,
    loading_bytes,
)
from workbench.training.model.base import ResidentBase

GIB = 1 << 30


class Machine:
    """A stand-in for the machine: its own /proc, and a clock that moves when somebody waits."""

    def __init__(self, root: Path, total_gib: float = 100.0) -> None:
        self.root, self.waited = root, 0
        self.total_gib = total_gib
        self.then: Callable[[int], None] = lambda seconds: None
        (root / "proc").mkdir(parents=True)
        self.free(total_gib)

    def free(self, gib: float) -> None:
        lines = [
            f"{name}: {int(n * (1 << 20))} kB\n"
            for name, n in (("MemTotal", self.total_gib), ("MemAvailable", gib))
        ]
        (self.root / "proc/meminfo").write_text("".join(lines))

    def pause(self, seconds: float) -> None:
        self.waited += 1
        self.then(self.waited)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


@pytest.fixture
def told() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def host(machine: Machine, told: list[Any], tmp_path: Path) -> MemoryMonitor:
    def emit(kind: str, *, durable: bool = False, **data: Any) -> None:
        told.append((kind, data))

    return MemoryMonitor(emit, Control(), tmp_path, root=machine.root, pause=machine.pause)


def test_a_load_with_enough_memory_does_not_wait(
    host: MemoryMonitor, machine: Machine, told: Any
) -> None:
    with host.reserve(2 * GIB):
        pass
    assert (machine.waited, told) == (0, [])


def test_a_load_waits_for_memory_and_reports_it_once(
    host: MemoryMonitor, machine: Machine, told: Any
) -> None:
    machine.free(9)  # 8 of them are to stay free
    machine.then = lambda n: machine.free(20) if n == 3 else None
    with host.reserve(2 * GIB):
        pass
    assert machine.waited == 3
    (phase,) = [data for kind, data in told if kind == "phase"]
    assert phase["name"] == "waiting for host memory"
    assert phase["detail"] == "9.0 GiB free, 10.0 GiB needed"


def test_a_load_that_waits_too_long_fails(host: MemoryMonitor, machine: Machine) -> None:
    machine.free(1)
    with pytest.raises(HostMemory, match="of memory left for 900 s"), host.reserve(GIB):
        pass
    assert machine.waited == LOAD_PATIENCE_S


def test_a_load_larger_than_the_machine_is_refused_at_once(
    host: MemoryMonitor, machine: Machine
) -> None:
    with pytest.raises(DoesNotFit, match="GiB in all") as refused, host.reserve(95 * GIB):
        pass
    assert machine.waited == 0
    assert refused.value.hint


def test_loads_go_one_after_another_when_memory_is_scarce(
    host: MemoryMonitor, machine: Machine, tmp_path: Path
) -> None:
    machine.free(14)
    other = Lock(tmp_path / "loading.lock")
    assert other.take()
    machine.then = lambda n: other.release() if n == 2 else None
    with host.reserve(4 * GIB):
        assert machine.waited == 2
        assert not other.take()
    assert other.take()
    other.release()


def test_a_request_to_yield_ends_the_wait(machine: Machine, tmp_path: Path) -> None:
    machine.free(1)
    bench = Bench(tmp_path / "home", recipe(train__max_steps=1))

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["name"] == "waiting for host memory":
            control.request_halt(Halt.YIELD)

    log = bench.run(on=on, host=partial(MemoryMonitor, root=machine.root, pause=machine.pause))
    assert log.outcome is Outcome.YIELDED


def test_a_trial_without_memory_to_load_names_host_memory_as_the_cause(
    machine: Machine, tmp_path: Path
) -> None:
    machine.free(1)
    bench = Bench(tmp_path / "home", recipe(train__max_steps=1))
    log = bench.run(host=partial(MemoryMonitor, root=machine.root, pause=machine.pause))
    assert (log.outcome, log.end["cause"]) == (Outcome.FAILED, "host_memory")
    assert "waiting for host memory" in [row["name"] for row in log.of("phase")]


def offloading(folder: Path) -> Bench:
    """Return a trial that recomputes all layers and offloads 60 GiB on a machine of 100 GiB."""
    made = plan(recompute_layers=5, offload=True, host_bytes=60 * GIB)
    return Bench(folder, recipe(model__quantization="nf4"), plan=made)


def test_offloaded_inputs_wait_for_memory_after_the_base_is_loaded(
    machine: Machine, tmp_path: Path
) -> None:
    machine.free(50)
    machine.then = lambda n: machine.free(90)
    log = offloading(tmp_path).run(
        host=partial(MemoryMonitor, root=machine.root, pause=machine.pause)
    )
    assert (log.outcome, machine.waited) == (Outcome.DONE, 1)
    names = [row["name"] for row in log.of("phase")]
    assert names.index("loading") < names.index("training") < names.index("waiting for host memory")


def test_a_request_to_yield_ends_that_wait_too_and_reports_the_step(
    machine: Machine, tmp_path: Path
) -> None:
    bench, make = (
        offloading(tmp_path),
        partial(MemoryMonitor, root=machine.root, pause=machine.pause),
    )
    reached = bench.run(on=halt_at(4, Halt.YIELD), host=make).end["step"]
    assert reached > 0
    machine.free(50)

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["name"] == "waiting for host memory":
            control.request_halt(Halt.YIELD)

    log = bench.run(on=on, host=make)
    assert (log.outcome, log.end["step"]) == (Outcome.YIELDED, reached)


def test_scoring_the_base_needs_no_offload_memory(machine: Machine, tmp_path: Path) -> None:
    machine.free(50)
    bench = offloading(tmp_path)
    bench.kind = "base"
    log = bench.run(host=partial(MemoryMonitor, root=machine.root, pause=machine.pause))
    assert (log.outcome, machine.waited) == (Outcome.DONE, 0)


def test_a_trial_that_the_machine_can_never_hold_fails_at_once(tmp_path: Path) -> None:
    small = Machine(tmp_path / "small", total_gib=1.0)
    bench = Bench(tmp_path / "home", recipe(train__max_steps=1))
    log = bench.run(host=partial(MemoryMonitor, root=small.root, pause=small.pause))
    assert (log.outcome, log.end["cause"], small.waited) == (Outcome.FAILED, "recipe", 0)
    assert log.end["hint"]


def test_training_waits_while_memory_is_short_and_loses_nothing(
    machine: Machine, tmp_path: Path
) -> None:
    straight = Bench(tmp_path / "a", recipe()).run()
    machine.then = lambda n: machine.free(90)

    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["name"] == "training" and not machine.waited:
            machine.free(3)

    make = partial(MemoryMonitor, root=machine.root, pause=machine.pause)
    log = Bench(tmp_path / "b", recipe()).run(on=on, host=make)
    assert log.outcome is Outcome.DONE
    assert machine.waited == 1
    assert log.losses == straight.losses
    names = [row["name"] for row in log.of("phase")]
    at = names.index("waiting for host memory")
    assert names[at + 1] == "training"


def test_training_that_waits_in_vain_checkpoints_and_releases_card_and_base(
    machine: Machine, tmp_path: Path
) -> None:
    def on(kind: str, data: dict[str, Any], control: Control) -> None:
        if kind == "phase" and data["name"] == "training":
            machine.free(3)

    resident = ResidentBase()
    bench = Bench(tmp_path / "home", recipe())
    make = partial(MemoryMonitor, root=machine.root, pause=machine.pause)
    log = bench.run(on=on, resident=resident, host=make)
    assert log.outcome is Outcome.YIELDED
    assert machine.waited == TRAIN_PATIENCE_S
    assert log.of("checkpoint")
    assert resident.spec is None
    assert any("gives its card back" in row["text"] for row in log.of("log"))
    assert bench.run().outcome is Outcome.DONE


def test_the_bytes_a_load_needs(tmp_path: Path) -> None:
    how = plan(predicted_bytes=5 * GIB, buckets={"base": 4 * GIB, "context": GIB})
    assert loading_bytes(how, "cpu", str(tmp_path)) == 4 * GIB
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    assert loading_bytes(how, "cuda", str(tmp_path)) == GIB // 2 + 1000
    assert loading_bytes(how, "cuda", "some/hub-id") == GIB // 2 + IN_FLIGHT_BYTES
