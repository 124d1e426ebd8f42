"""NVML's answers become facts; a module with pynvml's functions stands for the driver."""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from workbench.machine.nvml import DriverProblem, GpuFacts, NvmlDriver

GIB = 1 << 30


@dataclass
class Gpu:
    uuid: str
    answers: dict[str, Any] = field(default_factory=dict)
    """Answers by query; a query without an answer is not supported by the card."""
    lost: int = 0
    """NVML's error for every query."""


def process(pid: int, size: int | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


class Nvml:
    """A replacement of the module pynvml, with its real constants and errors."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)
        self.events: deque[tuple[int, int, int]] = deque()
        self.registered: list[int] = []
        self.opened = 0
        self.broken = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet"):
            return lambda handle, *more: self._answer(name, handle)
        return getattr(pynvml, name)

    def _index(self, handle: Any) -> int:
        return (ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1

    def _answer(self, question: str, handle: Any) -> Any:
        gpu = self.gpus[self._index(handle)]
        if gpu.lost:
            raise pynvml.NVMLError(gpu.lost)
        known: dict[str, Any] = {
            "nvmlDeviceGetUUID": gpu.uuid,
            "nvmlDeviceGetName": "NVIDIA RTX 3090",
        }
        memory = SimpleNamespace(total=24 * GIB, free=20 * GIB, used=4 * GIB)
        known |= {"nvmlDeviceGetMemoryInfo": memory, **gpu.answers}
        answer = known.get(question, pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))
        if isinstance(answer, pynvml.NVMLError):
            raise answer
        return answer

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise pynvml.NVMLError(self.broken)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        if self.gpus[index].lost:
            raise pynvml.NVMLError(self.gpus[index].lost)
        return ctypes.cast(index + 1, pynvml.c_nvmlDevice_t)

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: object) -> None:
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        self.registered.append(self._index(handle))

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        index, kind, code = self.events.popleft()
        event = pynvml.c_nvmlEventData_t()
        event.device = ctypes.cast(index + 1, pynvml.c_nvmlDevice_t)
        event.eventType, event.eventData = kind, code
        return event


XID = pynvml.nvmlEventTypeXidCriticalError
TELLS = {"nvmlDeviceGetSupportedEventTypes": XID | pynvml.nvmlEventTypeClock}


def ask(*gpus: Gpu) -> list[GpuFacts]:
    return NvmlDriver(Nvml(*gpus)).gpus()


def test_every_name_we_ask_for_is_one_of_pynvmls() -> None:
    for name in (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetPciInfo",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetGraphicsRunningProcesses",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetSupportedEventTypes",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetCreate",
        "nvmlEventSetWait_v2",
    ):
        assert callable(getattr(pynvml, name))


def test_each_gpu_has_its_number_and_slot() -> None:
    slot = SimpleNamespace(busId=b"00000000:65:00.0")
    first, second = ask(Gpu("GPU-1", {}), Gpu("GPU-2", {"nvmlDeviceGetPciInfo": slot}))
    assert (first.index, first.bus) == (0, "")
    assert (second.index, second.bus) == (1, "00000000:65:00.0")


def test_milliwatts_and_millijoules_become_watts_and_joules() -> None:
    [fact] = ask(
        Gpu(
            "GPU-1",
            {
                "nvmlDeviceGetPowerUsage": 350_250,
                "nvmlDeviceGetEnforcedPowerLimit": 370_000,
                "nvmlDeviceGetTotalEnergyConsumption": 3_600_500,
                "nvmlDeviceGetTotalEccErrors": 2,
                "nvmlDeviceGetTemperature": 71,
            },
        )
    )
    assert (fact.power_w, fact.power_limit_w, fact.energy_j) == (350.25, 370.0, 3600.5)
    assert (fact.ecc_errors, fact.temperature_c) == (2, 71)


def test_what_a_card_does_not_report_is_unknown_and_not_nothing() -> None:
    [fact] = ask(Gpu("GPU-1"))
    assert fact.problem == ""
    assert {fact.power_w, fact.energy_j, fact.ecc_errors, fact.temperature_c} == {None}
    assert fact.xid_watch is False
    assert fact.processes == fact.graphics == ()


def test_who_computes_and_who_only_draws_are_distinguished() -> None:
    [fact] = ask(
        Gpu(
            "GPU-1",
            {
                "nvmlDeviceGetComputeRunningProcesses": [process(10, 3 * GIB), process(11, None)],
                "nvmlDeviceGetGraphicsRunningProcesses": [process(10, 3 * GIB), process(20, GIB)],
            },
        )
    )
    assert fact.processes == ((10, 3 * GIB), (11, None))
    assert fact.graphics == ((20, GIB),)


def sample(pid: int, at_us: int, percent: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, timeStamp=at_us, smUtil=percent)


@pytest.mark.parametrize(
    ("answer", "computing"),
    [
        ([sample(7, 10, 40), sample(7, 20, 90), sample(8, 20, 1)], ((7, 90), (8, 1))),
        ([sample(7, 10, 4_294_967_295)], ()),
        (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND), ()),
        (pynvml.NVMLError(pynvml.NVML_SUCCESS), ()),
        (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), None),
    ],
    ids=["two compute", "noise", "none computed", "an empty list", "not told"],
)
def test_who_computed_since_the_last_query_is_known_where_the_driver_tells(
    answer: object, computing: object
) -> None:
    [fact] = ask(Gpu("GPU-1", {"nvmlDeviceGetProcessUtilization": answer}))
    assert fact.computing == computing


def test_a_sample_of_utilisation_is_asked_for_once() -> None:
    asked: list[int] = []

    class Recording(Nvml):
        def nvmlDeviceGetProcessUtilization(self, handle: Any, since_us: int) -> list[Any]:
            asked.append(since_us)
            return [sample(7, 1_000 + len(asked), 40)]

    driver = NvmlDriver(Recording(Gpu("GPU-1")))
    for _ in range(3):
        driver.gpus()
    assert asked == [0, 1_001, 1_002]


class TestXids:
    def test_they_are_reported_once_for_the_card_they_came_from(self) -> None:
        nvml = Nvml(Gpu("GPU-1", TELLS), Gpu("GPU-2", TELLS))
        driver = NvmlDriver(nvml)
        assert [fact.xid_watch for fact in driver.gpus()] == [True, True]
        nvml.events += [(1, XID, 31), (1, XID, 43)]
        assert [fact.xids for fact in driver.gpus()] == [(), (31, 43)]
        assert [fact.xids for fact in driver.gpus()] == [(), ()]
        assert nvml.registered == [0, 1]

    def test_a_lost_card_is_known_by_its_handle(self) -> None:
        nvml = Nvml(Gpu("GPU-1", TELLS))
        driver = NvmlDriver(nvml)
        driver.gpus()
        nvml.events.append((0, XID, 79))
        nvml.gpus[0].lost = pynvml.NVML_ERROR_GPU_IS_LOST
        [fact] = driver.gpus()
        assert fact.xids == (79,)
        assert fact.lost
        assert "fallen off the bus" in fact.problem

    def test_other_events_are_none(self) -> None:
        nvml = Nvml(Gpu("GPU-1", TELLS))
        driver = NvmlDriver(nvml)
        driver.gpus()
        nvml.events += [(0, pynvml.nvmlEventTypeClock, 5), (0, XID, 13)]
        assert driver.gpus()[0].xids == (13,)

    def test_a_card_that_errs_without_end_does_not_keep_us(self) -> None:
        nvml = Nvml(Gpu("GPU-1", TELLS))
        driver = NvmlDriver(nvml)
        driver.gpus()
        nvml.events += [(0, XID, 31)] * 10_000
        assert len(driver.gpus()[0].xids) == 256

    def test_a_driver_that_came_back_is_watched_again(self) -> None:
        nvml = Nvml(Gpu("GPU-1", TELLS))
        driver = NvmlDriver(nvml)
        driver.gpus()
        nvml.broken = pynvml.NVML_ERROR_UNKNOWN
        with pytest.raises(DriverProblem):
            driver.gpus()
        nvml.broken = 0
        driver.gpus()
        assert (nvml.opened, nvml.registered) == (2, [0, 0])


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (pynvml.NVML_ERROR_GPU_IS_LOST, True),
        (pynvml.NVML_ERROR_RESET_REQUIRED, True),
        (pynvml.NVML_ERROR_UNKNOWN, False),
    ],
)
def test_only_a_card_that_is_gone_counts_as_lost(error: int, lost: bool) -> None:
    nvml = Nvml(Gpu("GPU-1"))
    driver = NvmlDriver(nvml)
    driver.gpus()
    nvml.gpus[0].lost = error
    [fact] = driver.gpus()
    assert fact.problem
    assert fact.lost is lost
