"""The machine's own memory: loads and steps wait for room in it.

Without the wait the kernel or Ray's memory monitor would end another trial's worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.errors import DoesNotFit, HostMemory
from workbench.footprint import Plan
from workbench.machine.locks import Lock
from workbench.machine.resources import available_memory, release_free_memory, total_memory
from workbench.training.control import Control, Emit
from workbench.training.memory.host_copy import release_pinned_memory

GIB = 1 << 30
RESERVE, FLOOR = 0.08, 0.06
"""Shares of the machine's memory: `reserve` leaves RESERVE free, and training waits below FLOOR.
Ray's monitor ends workers when 95 % is taken."""
IN_FLIGHT_BYTES = 2 * GIB
"""Upper bound of the weights on their way to a GPU: tensors stream, several at once."""
PROCESS_BYTES = GIB // 2
"""Bytes that a loading process takes besides its weights."""
CROWD = 8
"""Loads go one after another when the machine has room for fewer than CROWD of them."""
LOAD_PATIENCE_S, TRAIN_PATIENCE_S = 900.0, 60.0
"""Seconds that a load and a training step wait for memory before they end."""
LOOK_S = 1.0
"""Seconds between two looks at the machine's memory."""


class MemoryMonitor:
    """The monitor of the machine's memory for one attempt.

    `home` holds the lock that puts loads in a row. Tests replace `root` (where /proc and /sys are
    read) and `pause` (which waits for a number of seconds).
    """

    def __init__(
        self,
        emit: Emit,
        control: Control,
        home: Path,
        *,
        root: Path = Path("/"),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._emit, self._control, self._root, self._pause = emit, control, root, pause
        self._lock = Lock(home / "loading.lock")
        self._total = total_memory(root)
        self._next_s = 0.0

    @contextmanager
    def reserve(self, need: int) -> Iterator[None]:
        """Wait until the block may take `need` bytes of the machine's memory.

        Raises Interrupted when the card is to be given back meanwhile, HostMemory after
        LOAD_PATIENCE_S without the memory, and DoesNotFit when the machine has less in all.
        """
        keep = int(RESERVE * self._total)
        if need + keep > self._total:
            raise DoesNotFit(
                f"{need / GIB:.1f} GiB of the machine's memory are needed, with "
                f"{keep / GIB:.1f} GiB left over; it has {self._total / GIB:.1f} GiB in all",
                hint="use a smaller base model or shorter rows, or a machine with more memory",
            )
        try:
            self._wait(lambda: self._may_load(need, keep), need + keep, LOAD_PATIENCE_S)
            yield
        finally:
            self._lock.release()

    def _may_load(self, need: int, keep: int) -> bool:
        if (room := self._free() - keep) >= CROWD * need:
            return True
        with suppress(OSError):  # on a full disk the lock cannot be written: load without it
            if not self._lock.take():
                return False
        if room < need:
            self._lock.release()  # another trial may need less and load meanwhile
        return room >= need

    def has_room(self, need: int) -> bool:
        """Return whether `need` more bytes leave as much memory free as a load leaves."""
        return self._free() - need >= RESERVE * self._total

    def check(self) -> None:
        """Check between two steps, at most once a second, that enough memory is free.

        When it is not: free what this process holds unused, wait TRAIN_PATIENCE_S, then ask for the
        attempt's end, so that the card and the base's memory are given back.
        """
        now_s = time.monotonic()
        if now_s < self._next_s or self._control.halt is not None:
            return
        self._next_s = now_s + LOOK_S
        floor = int(FLOOR * self._total)
        if self._free() >= floor:
            return
        release_free_memory()
        release_pinned_memory()
        if self._free() >= floor:
            return
        try:
            self._wait(lambda: self._free() >= floor, floor, TRAIN_PATIENCE_S)
        except HostMemory as short:
            text = f"{short.what}: the trial gives its card back"
            self._emit("log", level="warning", text=text)
            self._control.yield_host_memory()

    def _wait(self, enough: Callable[[], bool], need: int, patience_s: float) -> None:
        """Wait until `enough` returns True, asked every LOOK_S, and report the wait once.

        Raises HostMemory, which names the `need` in bytes, after `patience_s`.
        """
        waited = 0.0
        while not enough():
            self._control.check()
            if waited == 0.0:
                detail = f"{self._free() / GIB:.1f} GiB free, {need / GIB:.1f} GiB needed"
                self._emit("phase", name="waiting for host memory", detail=detail)
            if waited >= patience_s:
                raise HostMemory(
                    f"the machine had {self._free() / GIB:.1f} GiB of memory left for "
                    f"{patience_s:.0f} s, {need / GIB:.1f} GiB are needed",
                    hint="end other programs that take memory there, or run fewer trials at once",
                )
            self._pause(LOOK_S)
            waited += LOOK_S
        if waited and self._control.stage:
            self._emit("phase", name=self._control.stage, detail="")

    def _free(self) -> int:
        return available_memory(self._root)


def loading_bytes(plan: Plan, device: str, path: str) -> int:
    """Return the bytes of the machine's memory that loading the base takes.

    On a CPU card this is the trial's whole predicted need; for a GPU the weights in flight, which
    `path` is read for, and the tables of embeddings that stay.
    """
    if device == "cpu":
        return max(0, plan.predicted_bytes - plan.buckets.get("context", 0))
    sizes = [file.stat().st_size for file in Path(path).glob("*.safetensors")]
    in_flight = min(sum(sizes) or IN_FLIGHT_BYTES, IN_FLIGHT_BYTES)
    return PROCESS_BYTES + in_flight + plan.table_bytes
