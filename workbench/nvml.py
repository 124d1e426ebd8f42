"""What NVIDIA's driver says of its GPUs. The one place that imports pynvml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class DriverProblem(Exception):
    """The driver is there and does not work, e.g. it was upgraded without a reboot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU at one moment; None where the driver does not tell."""

    uuid: str
    name: str
    total_bytes: int
    capability: tuple[int, int] | None
    mig: bool = False
    """Cut into slices (multi-instance GPU): left alone."""
    free_bytes: int = 0
    used_bytes: int = 0
    utilisation: int | None = None
    """Percent of the last moments in which a kernel ran."""
    temperature_c: int | None = None
    power_w: float | None = None
    processes: tuple[tuple[int, int | None], ...] = ()
    """(pid, bytes) of each process with a context; no bytes inside some containers."""
    problem: str = ""
    """Why the card cannot be used, e.g. it has fallen off the bus."""


class Driver(Protocol):
    """A source of facts about GPUs, in the order of their PCI bus."""

    def version(self) -> str:
        """Empty where there is no driver. Raises DriverProblem."""
        ...

    def gpus(self) -> list[GpuFacts]:
        """Raises DriverProblem; a problem of one card is on its facts."""
        ...


class NoDriver:
    """A machine without NVIDIA's driver."""

    def version(self) -> str:
        return ""

    def gpus(self) -> list[GpuFacts]:
        return []


class NvmlDriver:
    """NVML, opened at the first question and anew after a failure."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._known: dict[int, GpuFacts] = {}

    def version(self) -> str:
        return str(self._ask("nvmlSystemGetDriverVersion")) if self._open() else ""

    def gpus(self) -> list[GpuFacts]:
        if not self._open():
            return []
        facts = [self._gpu(index) for index in range(int(self._ask("nvmlDeviceGetCount")))]
        return [fact for fact in facts if fact is not None]

    def _open(self) -> bool:
        """False where there is no driver at all."""
        if self._nvml is not None:
            return True
        import pynvml

        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
            return False
        except pynvml.NVMLError as broken:
            raise DriverProblem(_words(broken)) from broken
        self._nvml = pynvml
        return True

    def _ask(self, question: str) -> Any:
        try:
            return getattr(self._nvml, question)()
        except self._nvml.NVMLError as broken:
            self._nvml = None  # opened anew at the next question
            raise DriverProblem(_words(broken)) from broken

    def _gpu(self, index: int) -> GpuFacts | None:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            fact = GpuFacts(
                uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                name=str(nvml.nvmlDeviceGetName(handle)).removeprefix("NVIDIA "),
                total_bytes=int(memory.total),
                free_bytes=int(memory.free),
                used_bytes=int(memory.used),
                capability=self._capability(handle),
            )
        except nvml.NVMLError as broken:
            known = self._known.get(index)
            return replace(known, problem=_words(broken), free_bytes=0) if known else None
        self._known[index] = fact
        return self._with_extras(fact, handle)

    def _with_extras(self, fact: GpuFacts, handle: Any) -> GpuFacts:
        nvml = self._nvml
        mig = self._or_none(nvml.nvmlDeviceGetMigMode, handle)
        rates = self._or_none(nvml.nvmlDeviceGetUtilizationRates, handle)
        sensor = nvml.NVML_TEMPERATURE_GPU
        power = self._or_none(nvml.nvmlDeviceGetPowerUsage, handle)
        running = self._or_none(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        return replace(
            fact,
            mig=bool(mig and mig[0]),
            utilisation=None if rates is None else int(rates.gpu),
            temperature_c=self._or_none(lambda h: nvml.nvmlDeviceGetTemperature(h, sensor), handle),
            power_w=None if power is None else power / 1000,
            processes=tuple((int(each.pid), each.usedGpuMemory) for each in running),
        )

    def _capability(self, handle: Any) -> tuple[int, int] | None:
        told = self._or_none(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return (int(told[0]), int(told[1])) if told else None

    def _or_none(self, ask: Callable[[Any], T], handle: Any) -> T | None:
        """Many cards leave some question unanswered; that is no problem of theirs."""
        try:
            return ask(handle)
        except self._nvml.NVMLError:
            return None


_MENDS = {
    "Driver/library version mismatch": "the driver was upgraded; reboot to load it",
    "GPU is lost": "the card has fallen off the bus; reboot, and check power and seating",
    "Insufficient Permissions": "no permission to ask the driver",
}


def _words(broken: Exception) -> str:
    said = str(broken)
    return next((f"{said}: {mend}" for part, mend in _MENDS.items() if part in said), said)
