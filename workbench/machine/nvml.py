"""Query NVIDIA's driver about its GPUs through NVML. No other module imports pynvml."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class DriverProblem(Exception):
    """An error of the driver as a whole, e.g. it was upgraded without a reboot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU at one moment; None where the driver does not report a value."""

    uuid: str
    name: str
    total_bytes: int
    capability: tuple[int, int] | None
    index: int | None = None
    """Its number in nvidia-smi."""
    bus: str = ""
    """Its slot on the PCI bus, such as 00000000:65:00.0; empty where the driver does not say."""
    mig: bool = False
    """True if the GPU is divided into slices (multi-instance GPU); we do not use such a card."""
    free_bytes: int = 0
    used_bytes: int = 0
    utilisation: int | None = None
    """Percent of the last sampling period in which a kernel ran."""
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    """Joules since the driver was loaded; not every card has the counter."""
    ecc_errors: int | None = None
    """Uncorrectable memory errors since the driver was loaded."""
    processes: tuple[tuple[int, int | None], ...] = ()
    """(pid, bytes) of each process that computes; bytes are None inside some containers."""
    graphics: tuple[tuple[int, int | None], ...] = ()
    """(pid, bytes) of each process that only draws, such as a desktop."""
    computing: tuple[tuple[int, int], ...] | None = None
    """(pid, highest percent) of each process that kept the card busy since the last query; None
    where the driver does not tell processes apart, as in WSL and on cards before Maxwell."""
    xid_watch: bool | None = None
    """True if the driver reports this card's Xid errors to us."""
    xids: tuple[int, ...] = ()
    """Xid errors since the last query, oldest first."""
    problem: str = ""
    """The reason why the card cannot be used, e.g. it has fallen off the bus; empty if it can."""
    lost: bool = False
    """True if the driver works and reports that this card is gone."""


class Driver(Protocol):
    """A source of facts about GPUs."""

    def version(self) -> str:
        """Return the driver's version, empty if there is no driver. Raises DriverProblem."""
        ...

    def gpus(self) -> list[GpuFacts]:
        """Return the facts of every GPU in the order of the PCI bus.

        A problem of one card is in its facts. Raises DriverProblem if the driver itself fails.
        """
        ...


class NoDriver:
    """The driver of a machine that has none."""

    def version(self) -> str:
        return ""

    def gpus(self) -> list[GpuFacts]:
        return []


class NvmlDriver:
    """A driver that queries NVML, opened at the first query and reopened after a failure.

    `module` is pynvml or a test's replacement with the same functions.
    """

    def __init__(self, module: Any = None) -> None:
        self._module = module
        self._nvml: Any = None
        self._events: XidEvents | None = None
        self._known: dict[int, GpuFacts] = {}
        self._sampled_us: dict[str, int] = {}
        """By UUID, the driver's time of the newest utilisation of a process that was read."""

    def version(self) -> str:
        return str(self._ask("nvmlSystemGetDriverVersion")) if self._open() else ""

    def gpus(self) -> list[GpuFacts]:
        if not self._open():
            return []
        facts = [self._gpu(index) for index in range(int(self._ask("nvmlDeviceGetCount")))]
        assert self._events is not None
        xids = self._events.drain()
        return [
            replace(fact, xids=tuple(xids.get(fact.uuid, ()))) for fact in facts if fact is not None
        ]

    def _open(self) -> bool:
        """Open NVML if it is not open; return False if there is no driver at all."""
        if self._nvml is not None:
            return True
        # Imported late, so that a machine without pynvml can use everything else.
        nvml = self._module or _pynvml()
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return False
        except nvml.NVMLError as broken:
            raise DriverProblem(_words(broken)) from broken
        self._nvml, self._events = nvml, XidEvents(nvml)
        return True

    def _ask(self, question: str) -> Any:
        try:
            return getattr(self._nvml, question)()
        except self._nvml.NVMLError as broken:
            self._nvml = None  # reopened at the next query
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
                index=index,
                bus=self._bus(handle),
            )
        except nvml.NVMLError as broken:
            # A card that worked before keeps its identity, so that its loss can be reported.
            known = self._known.get(index)
            if known is None:
                return None
            gone = (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
            lost = getattr(broken, "value", None) in gone
            return replace(known, problem=_words(broken), free_bytes=0, lost=lost)
        self._known[index] = fact
        return self._with_extras(fact, handle)

    def _bus(self, handle: Any) -> str:
        info = self._or_none(self._nvml.nvmlDeviceGetPciInfo, handle)
        name = getattr(info, "busId", "")
        return name.decode(errors="replace") if isinstance(name, bytes) else str(name)

    def _with_extras(self, fact: GpuFacts, handle: Any) -> GpuFacts:
        nvml = self._nvml
        assert self._events is not None
        mig = self._or_none(nvml.nvmlDeviceGetMigMode, handle)
        rates = self._or_none(nvml.nvmlDeviceGetUtilizationRates, handle)
        sensor = nvml.NVML_TEMPERATURE_GPU
        compute = _processes(self._or_none(nvml.nvmlDeviceGetComputeRunningProcesses, handle))
        graphics = _processes(self._or_none(nvml.nvmlDeviceGetGraphicsRunningProcesses, handle))
        return replace(
            fact,
            mig=bool(mig and mig[0]),
            utilisation=None if rates is None else int(rates.gpu),
            temperature_c=self._or_none(lambda h: nvml.nvmlDeviceGetTemperature(h, sensor), handle),
            power_w=_thousandth(self._or_none(nvml.nvmlDeviceGetPowerUsage, handle)),
            power_limit_w=_thousandth(self._or_none(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            energy_j=_thousandth(self._or_none(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
            ecc_errors=self._or_none(self._ecc_errors, handle),
            processes=tuple(compute.items()),
            # Some processes do both; counting them twice would double their bytes.
            graphics=tuple((pid, size) for pid, size in graphics.items() if pid not in compute),
            computing=self._computing(handle, fact.uuid),
            xid_watch=self._events.watch(handle, fact.uuid),
        )

    def _computing(self, handle: Any, uuid: str) -> tuple[tuple[int, int], ...] | None:
        """Return (pid, highest percent) of the processes that used the card since the last call."""
        nvml = self._nvml
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._sampled_us.get(uuid, 0))
        except nvml.NVMLError as refused:
            # Without any sample, the driver answers "not found" or success; pynvml raises both.
            nobody = (nvml.NVML_ERROR_NOT_FOUND, nvml.NVML_SUCCESS)
            return () if getattr(refused, "value", None) in nobody else None
        found: dict[int, int] = {}
        for one in samples:
            self._sampled_us[uuid] = max(self._sampled_us.get(uuid, 0), int(one.timeStamp))
            if one.smUtil <= 100:  # some drivers pad the list with noise
                found[int(one.pid)] = max(found.get(int(one.pid), 0), int(one.smUtil))
        return tuple(found.items())

    def _ecc_errors(self, handle: Any) -> int:
        nvml = self._nvml
        kind, since_load = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return int(nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since_load))

    def _capability(self, handle: Any) -> tuple[int, int] | None:
        answer = self._or_none(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        return (int(answer[0]), int(answer[1])) if answer else None

    def _or_none(self, ask: Callable[[Any], T], handle: Any) -> T | None:
        """Return the answer to one query, or None if the card does not support it."""
        try:
            return ask(handle)
        except self._nvml.NVMLError:
            return None


class XidEvents:
    """The Xid errors that the driver reports, from the moment a card is first watched."""

    MOST = 256
    """Most events read at once, so that a card with endless errors does not block the sampler."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._set: Any = None
        self._watched: dict[str, bool] = {}
        self._uuids: dict[int | None, str] = {}
        """UUIDs by handle, because a lost card no longer reports its UUID."""

    def watch(self, handle: Any, uuid: str) -> bool:
        """Register for a card's Xid errors once; return False if card or driver reports none."""
        if uuid not in self._watched:
            self._uuids[_address(handle)] = uuid
            self._watched[uuid] = self._register(handle)
        return self._watched[uuid]

    def _register(self, handle: Any) -> bool:
        nvml = self._nvml
        try:
            if self._set is None:
                self._set = nvml.nvmlEventSetCreate()
            xid = nvml.nvmlEventTypeXidCriticalError
            if not nvml.nvmlDeviceGetSupportedEventTypes(handle) & xid:
                return False
            nvml.nvmlDeviceRegisterEvents(handle, xid, self._set)
        except nvml.NVMLError:
            return False
        return True

    def drain(self) -> dict[str, list[int]]:
        """Return the new codes by card UUID, oldest first, without waiting for any."""
        found: dict[str, list[int]] = {}
        for _ in range(self.MOST if any(self._watched.values()) else 0):
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._set, 0)
            except self._nvml.NVMLError:
                break  # a timeout, so there are no more; or a lost card, whose facts report it
            if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                uuid = self._uuids.get(_address(event.device), "")
                found.setdefault(uuid, []).append(int(event.eventData))
        return found


def _pynvml() -> Any:
    import pynvml

    return pynvml


def _address(handle: Any) -> int | None:
    """Return the pointer inside a handle, because each NVML call wraps it in a new object."""
    return ctypes.cast(handle, ctypes.c_void_p).value


def _processes(running: Any) -> dict[int, int | None]:
    return {int(each.pid): each.usedGpuMemory for each in running or ()}


def _thousandth(value: float | None) -> float | None:
    return None if value is None else value / 1000


_REPAIR_HINTS = {
    "Driver/library version mismatch": "the driver was upgraded; reboot to load it",
    "GPU is lost": "the card has fallen off the bus; reboot, and check power and seating",
    "Insufficient Permissions": "no permission to ask the driver",
}


def _words(broken: Exception) -> str:
    said = str(broken)
    return next((f"{said}: {hint}" for part, hint in _REPAIR_HINTS.items() if part in said), said)
