"""The machine's own memory: wait for room, before the kernel or Ray's monitor ends a neighbour."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workbench.errors import DoesNotFit, HostMemory
from workbench.footprint import Plan
from workbench.machine.cards import available_memory, total_memory
from workbench.machine.locks import Lock
from workbench.training.control import Control, Emit

GIB = 1 << 30
RESERVE, FLOOR = 0.08, 0.06
"""Of the machine's memory: what `room_for` leaves free, and below what training waits. Ray's
monitor ends workers at 95 % taken."""
IN_FLIGHT_BYTES = 2 * GIB
"""Of weights on their way to a GPU, at most: they stream tensor by tensor, several at once."""
PROCESS_BYTES = GIB // 2
"""What a loading process takes besides."""
CROWD = 8
"""With room for fewer loads than that at once, they go one after another."""
LOAD_PATIENCE_S, TRAIN_PATIENCE_S = 900.0, 60.0
LOOK_S = 1.0


class Host:
    """Watches it for one attempt. `pause` waits so many seconds."""

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
    def room_for(self, need: int) -> Iterator[None]:
        """The block may take `need` bytes. Waits for them; Interrupted when the card is wanted
        back meanwhile, HostMemory when they do not come, DoesNotFit when they never can."""
        keep = int(RESERVE * self._total)
        if need + keep > self._total:
            raise DoesNotFit(
                f"{need / GIB:.1f} GiB of the machine's memory are wanted, with "
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
        with suppress(OSError):  # a full disk: then without the lock
            if not self._lock.take():
                return False
        if room < need:
            self._lock.release()  # others may need less
        return room >= need

    def look(self) -> None:
        """Between two steps, once a second: low, it frees what it can and waits; then it asks for
        an end, so that the card and the base's memory are given back."""
        now_s = time.monotonic()
        if now_s < self._next_s or self._control.halt is not None:
            return
        self._next_s = now_s + LOOK_S
        floor = int(FLOOR * self._total)
        if self._free() >= floor:
            return
        trim()
        if self._free() >= floor:
            return
        try:
            self._wait(lambda: self._free() >= floor, floor, TRAIN_PATIENCE_S)
        except HostMemory as short:
            self._emit("log", level="warning", text=f"{short.what}: gives its card back")
            self._control.yield_host_memory()

    def _wait(self, enough: Callable[[], bool], wanted: int, patience_s: float) -> None:
        """Until `enough`, telling so once; it is looked at every second."""
        waited = 0.0
        while not enough():
            self._control.check()
            if waited == 0.0:
                detail = f"{self._free() / GIB:.1f} GiB free, {wanted / GIB:.1f} GiB wanted"
                self._emit("phase", name="waiting for host memory", detail=detail)
            if waited >= patience_s:
                raise HostMemory(
                    f"the machine had {self._free() / GIB:.1f} GiB of memory left for "
                    f"{patience_s:.0f} s, {wanted / GIB:.1f} GiB are wanted",
                    hint="end what else takes memory there, or run fewer trials at once",
                )
            self._pause(LOOK_S)
            waited += LOOK_S
        if waited and self._control.stage:
            self._emit("phase", name=self._control.stage, detail="")

    def _free(self) -> int:
        return available_memory(self._root)


def loading_bytes(plan: Plan, device: str, path: str) -> int:
    """What loading the base takes of the machine's memory: all of it on a CPU card, elsewhere what
    is on its way."""
    if device == "cpu":
        return max(0, plan.predicted_bytes - plan.buckets.get("context", 0))
    sizes = [file.stat().st_size for file in Path(path).glob("*.safetensors")]
    return PROCESS_BYTES + min(sum(sizes) or IN_FLIGHT_BYTES, IN_FLIGHT_BYTES)


def trim() -> None:
    """Give back to the system what this process holds and does not use."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library has none
        ctypes.CDLL(None).malloc_trim(0)
